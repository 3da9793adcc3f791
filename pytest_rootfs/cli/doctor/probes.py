"""Find out what this host can do, by trying it in a child process that then ends.

Nothing is changed on the host: everything is mounted in the child's own namespaces.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from pytest_rootfs.cli.doctor.checks import Refused, Trials
from pytest_rootfs.kernel import mounts, namespaces, syscalls


def try_all() -> Trials:
    """Try everything, the simplest first, until something fails that the rest needs."""
    read_fd, write_fd = os.pipe()
    if (pid := os.fork()) == 0:
        results: dict[str, tuple[int, str] | None] = {}
        try:
            _try_in_order(results)
        finally:
            os.write(write_fd, json.dumps(results).encode())
            os._exit(0)
    os.close(write_fd)
    with os.fdopen(read_fd, "rb") as answer:
        text = answer.read()
    os.waitpid(pid, 0)
    answers = json.loads(text).items()
    return {name: Refused(number=got[0], call=got[1]) if got else None for name, got in answers}


def _try_in_order(results: dict[str, tuple[int, str] | None]) -> None:
    steps: tuple[tuple[str, Callable[[], None], bool], ...] = (
        ("clone3", _call_clone3, False),
        ("openat2", _call_openat2, False),
        ("user namespace", _enter_user_namespace, True),
        ("mount", _mount_tmpfs, True),
        ("mount calls", _mount_detached_tmpfs, False),
        ("network namespace", lambda: syscalls.unshare(syscalls.CLONE_NEWNET), False),
        ("hostname", _name_host, False),
        ("overlay", _mount_lower, False),
        ("lowerdir+", _mount_by_descriptor, False),
        ("detached overlay", _mount_detached, False),
        ("overlay on tmpfs", _delete_lower_folder, False),
        ("proc", _mount_proc, False),
    )
    for name, trial, is_needed in steps:
        try:
            trial()
            results[name] = None
        except OSError as error:
            results[name] = (error.errno or 0, str(error.filename))
            if is_needed:
                return


def _call_clone3() -> None:
    """Clone a child that ends at once: filters answer ENOSYS to clone3 as a whole."""
    pid, pidfd = syscalls.clone3(0)
    if pid == 0:
        os._exit(0)
    os.close(pidfd)
    os.waitpid(pid, 0)


def _call_openat2() -> None:
    flags = os.O_PATH | os.O_DIRECTORY
    resolve = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
    os.close(syscalls.openat2(syscalls.AT_FDCWD, "/", flags, resolve=resolve))


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


def _mount_detached_tmpfs() -> None:
    """Mount by the calls of Linux 5.2, which older filters do not know and the spawner needs."""
    mount_fd = mounts.filesystem("tmpfs", {"size": "4096"})
    tree_fd = mounts.clone_tree("/tmp/merged", recursive=False)
    try:
        syscalls.move_mount(mount_fd, "/tmp/merged")
        syscalls.umount2("/tmp/merged", syscalls.MNT_DETACH)
    finally:
        os.close(mount_fd)
        os.close(tree_fd)


def _name_host() -> None:
    """Name a UTS namespace: podman's filter allows all else that a container needs, not this."""
    syscalls.unshare(syscalls.CLONE_NEWUTS)
    syscalls.sethostname("rootfs")


def _mount_lower() -> None:
    _mount_overlay("lowerdir=/tmp/one:/tmp/two")
    syscalls.umount2("/tmp/merged", syscalls.MNT_DETACH)


def _mount_by_descriptor() -> None:
    """Name layers one by one, which `mounts.overlay` does where it can: Linux 6.5."""
    fs_fd = syscalls.fsopen("overlay")
    try:
        syscalls.fsconfig_string(fs_fd, "lowerdir+", "/tmp/one")
        syscalls.fsconfig_string(fs_fd, "lowerdir+", "/tmp/two")
        syscalls.fsconfig_create(fs_fd)
    finally:
        os.close(fs_fd)


def _mount_detached() -> None:
    """Stack trees that have no place: Linux 6.15."""
    tree_fd = mounts.clone_tree("/tmp", recursive=False)
    folder_fds = [os.open(x, os.O_RDONLY | os.O_DIRECTORY, dir_fd=tree_fd) for x in ("one", "two")]
    try:
        os.close(mounts.overlay(folder_fds))
    finally:
        for fd in (*folder_fds, tree_fd):
            os.close(fd)


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
        raise OSError(int(answer), os.strerror(int(answer)), "mount 'proc'")
