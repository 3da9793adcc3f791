"""Find out what this host can do, by trying it in a child process that then ends.

Nothing is changed on the host: everything is mounted in the child's own namespaces. Each trial
says "" when it worked, else the kernel's answer.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from pytest_rootfs.kernel import mounts, namespaces, syscalls

Trials = dict[str, str]
"""Name of a trial → "" or why it failed; a trial that an earlier one made impossible is absent."""


def try_namespaces() -> Trials:
    """Try, in order: user namespace, mount, network, overlay, deleting on tmpfs, proc."""
    read_fd, write_fd = os.pipe()
    if (pid := os.fork()) == 0:
        results: Trials = {}
        try:
            _try_all(results)
        finally:
            os.write(write_fd, json.dumps(results).encode())
            os._exit(0)
    os.close(write_fd)
    with os.fdopen(read_fd, "rb") as answer:
        text = answer.read()
    os.waitpid(pid, 0)
    return dict(json.loads(text))


def _try_all(results: Trials) -> None:
    steps: tuple[tuple[str, Callable[[], None], bool], ...] = (
        ("user namespace", _enter_user_namespace, True),
        ("mount", _mount_tmpfs, True),
        ("network namespace", lambda: syscalls.unshare(syscalls.CLONE_NEWNET), False),
        ("overlay", _mount_lower, False),
        ("overlay on tmpfs", _delete_lower_folder, False),
        ("proc", _mount_proc, False),
    )
    for name, trial, is_needed in steps:
        try:
            trial()
            results[name] = ""
        except OSError as error:
            results[name] = f"{error.strerror or error} ({error.filename})"
            if is_needed:
                return


def _enter_user_namespace() -> None:
    uid, gid = os.geteuid(), os.getegid()
    syscalls.unshare(syscalls.CLONE_NEWUSER)
    namespaces.deny_setgroups(os.getpid())
    namespaces.write_map("/proc/self/uid_map", [(0, uid, 1)])
    namespaces.write_map("/proc/self/gid_map", [(0, gid, 1)])


def _mount_tmpfs() -> None:
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.mount("tmpfs", "/tmp", "tmpfs")
    for name in ("one", "two/folder", "upper", "work", "merged"):
        os.makedirs(f"/tmp/{name}")
    Path("/tmp/two/folder/file").touch()


def _mount_lower() -> None:
    _mount_overlay("lowerdir=/tmp/one:/tmp/two")
    syscalls.umount2("/tmp/merged", syscalls.MNT_DETACH)


def _delete_lower_folder() -> None:
    """Delete a folder of a lower layer and make it anew: needs user xattrs on the upper dir."""
    _mount_overlay("lowerdir=/tmp/one:/tmp/two,upperdir=/tmp/upper,workdir=/tmp/work")
    os.unlink("/tmp/merged/folder/file")
    os.rmdir("/tmp/merged/folder")
    os.mkdir("/tmp/merged/folder")


def _mount_overlay(layers: str) -> None:
    options = ",".join(f"{key}={value}" for key, value in mounts.OVERLAY_OPTIONS.items())
    syscalls.mount("overlay", "/tmp/merged", "overlay", 0, f"userxattr,{options},{layers}")


def _mount_proc() -> None:
    """Mount a proc of a new pid namespace, which a masked /proc of an outer container forbids."""
    syscalls.unshare(syscalls.CLONE_NEWPID)
    read_fd, write_fd = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            syscalls.mount("proc", "/tmp/merged", "proc")
        except OSError as error:
            os.write(write_fd, str(error.errno).encode())
        os._exit(0)
    os.close(write_fd)
    answer = os.read(read_fd, 64)
    os.close(read_fd)
    os.waitpid(pid, 0)
    if answer:
        raise OSError(int(answer), os.strerror(int(answer)), "mount proc")


def kernel_setting(path: str) -> str | None:
    """Return a sysctl's value, None where this kernel has none."""
    try:
        return Path("/proc/sys", path).read_text(encoding="ascii").strip()
    except OSError:
        return None


def seccomp_mode() -> int:
    """Return how system calls of this process are filtered: 0 not at all, 2 by a program."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("Seccomp:"):
            return int(line.split()[1])
    return 0


def outer_container() -> str:
    """Return which container runtime we are in, "" for none that says so."""
    if Path("/.dockerenv").exists():
        return "docker"
    if Path("/run/.containerenv").exists():
        return "podman"
    return os.environ.get("container", "")  # noqa: SIM112  systemd.io/CONTAINER_INTERFACE


def filesystem_of(path: Path) -> str:
    """Return the type of the file system that holds a path; proc_pid_mountinfo(5)."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    kind = "unknown"
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[2] == wanted:
            kind = after.split()[0]
    return kind
