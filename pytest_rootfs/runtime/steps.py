"""The steps of a plan that the init carries out, each under the name that the plan gives it.

The nursery prepares a plan once (`prepare`): what can be known before the fork is looked up there.

The current directory is the host's root before `attach_root`, and from there on the new one, whose
are then all relative paths. All paths here are placed in the init layer, so no symlink of
an image can lead them astray; those that people name are opened by `open_inside`.
"""

from __future__ import annotations

import errno
import os
import stat

from pytest_rootfs.kernel import capabilities, mounts, prepared, signals, syscalls
from pytest_rootfs.kernel.inside import open_inside
from pytest_rootfs.kernel.syscalls import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_REC
from pytest_rootfs.runtime import protocol
from pytest_rootfs.runtime.init_layer import OVERFLOW_ID, RESERVED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any  # the arguments of steps are of many types

    from pytest_rootfs.runtime.newborn import Start

    Prepared = tuple[str, Callable[..., None], tuple[Any, ...]]
    """A step that is ready to be carried out: its name, its function, its arguments."""


def join_groups(start: Start) -> None:
    """Enter the cgroups that an init may be limited by (v1: each process writes itself)."""
    start.await_entrances()
    for fd in start.group.init_tasks:
        os.write(fd, b"0")


def become_root(start: Start) -> None:
    """Become uid and gid 0 of the container's user namespace, once its ids are mapped."""
    if not os.read(start.mapped_fd, 1):
        os._exit(1)  # the nursery was killed
    os.close(start.mapped_fd)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def raise_loopback(_start: Start) -> None:
    """Bring the loopback interface up."""
    syscalls.raise_loopback()


def make(_start: Start, calls: list[prepared.Call]) -> None:
    """Make prepared calls."""
    prepared.make(calls)


def make_slave() -> list[prepared.Call]:
    """Tell the host of no mount; what it unmounts goes here, too, so that nothing stays in use."""
    return [prepared.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_SLAVE)]


def take_name() -> list[prepared.Call]:
    """Be called what a container's process 1 is called, and no longer a newborn's."""
    return [prepared.set_name("pytest-rootfs")]


def attach_root(start: Start, readonly: bool) -> None:  # noqa: FBT001  a step's arguments are data
    """Attach the overlay over the old root, and stand in it."""
    syscalls.move_mount(start.overlay_fd, "/")
    os.fchdir(start.overlay_fd)
    if readonly:  # mount_setattr(2) would need Linux 5.12
        syscalls.mount(None, ".", None, MS_RDONLY | MS_BIND | syscalls.MS_REMOUNT)


def hold_staged(start: Start) -> None:
    """Take hold of the mounts that wait, over the host's folders, for the root they belong to."""
    for name in STAGED:
        start.staged[name] = os.open(name, os.O_PATH | os.O_CLOEXEC)


def attach_staged(start: Start) -> None:
    """Attach copies of them in the new root, to folders of the init layer.

    Copies, for the mounts of a container are listed in the order in which they were made, and those
    that wait may be older than the root.
    """
    for name, staged_fd in start.staged.items():
        tree_fd = mounts.clone_tree("", fd=staged_fd)
        syscalls.move_mount(tree_fd, name)
        os.close(tree_fd)


def attach_host(start: Start) -> None:
    """Attach the folders of the host that an ordinary user's view of it is made of."""
    for fd, path in start.trees:
        _attach_inside(fd, path)


def mount_filesystem(kind: str, path: str, options: str) -> list[prepared.Call]:
    """Mount a new file system of the kernel on a folder of the init layer, and verify it."""
    flags = MS_NOSUID | MS_NOEXEC | (0 if kind == "devpts" else MS_NODEV)
    flags |= MS_RDONLY if kind == "sysfs" else 0
    mount = prepared.mount(kind, path, kind, flags, options or None)
    return [mount, prepared.verify(path, MAGICS[kind])]


STAGED = ("proc", "sys")
"""What is mounted before the new root is there, in the place of the host's own."""

MAGICS = {
    "proc": mounts.PROC_MAGIC,
    "sysfs": mounts.SYSFS_MAGIC,
    "tmpfs": mounts.TMPFS_MAGIC,
    "devpts": mounts.DEVPTS_MAGIC,
    "mqueue": 0x19800202,
}


def bind_host_sys(_start: Start) -> None:
    """Show the host's /sys, read-only: a fresh sysfs needs a network namespace of one's own."""
    tree_fd = mounts.host_tree("/sys", readonly=True, recursive=True)
    syscalls.move_mount(tree_fd, "sys")
    os.close(tree_fd)


def bind_device(_start: Start, calls: list[prepared.Call], path: str, number: int) -> None:
    """Show a device node of the host, and verify that it is the right one."""
    prepared.make(calls)
    status = os.stat(path, follow_symlinks=False)
    if not stat.S_ISCHR(status.st_mode) or status.st_rdev != number:
        device = f"{os.major(number)}:{os.minor(number)}"
        raise OSError(errno.ENODEV, f"not the character device {device}", f"/{path}")


def prepare_device(name: str, major: int, minor: int) -> tuple[list[prepared.Call], str, int]:
    """Return the arguments of `bind_device`."""
    calls = [prepared.mount(f"/dev/{name}", f"dev/{name}", None, MS_BIND)]
    return calls, f"dev/{name}", os.makedev(major, minor)


def make_point(_start: Start, path: str, kind: str) -> None:
    """Make a mount point inside of a temporary file system that was mounted before."""
    above, name = os.path.split(path)
    if above.strip("/"):
        make_point(_start, above, "dir")
    folder_fd = open_inside(above, os.O_PATH | os.O_DIRECTORY)
    try:
        if kind == "file":
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            os.close(os.open(name, flags, 0o644, dir_fd=folder_fd))
        else:
            os.mkdir(name, 0o755, dir_fd=folder_fd)
            os.chmod(name, 0o1777 if kind == "tmpfs" else 0o755, dir_fd=folder_fd)
    except FileExistsError:
        pass
    finally:
        os.close(folder_fd)


def mount_tmpfs(_start: Start, path: str, bounds: dict[str, str]) -> None:
    """Mount a temporary file system where a person asked for one, with its folder's owner and mode.

    As runc does. One that is made for it is everybody's, like /tmp.
    """
    target_fd = _open_target(path)
    try:
        status = os.fstat(target_fd)
        options = {"mode": f"{stat.S_IMODE(status.st_mode):o}", **bounds}
        if OVERFLOW_ID not in (status.st_uid, status.st_gid):
            options |= {"uid": str(status.st_uid), "gid": str(status.st_gid)}
        attributes = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV
        tree_fd = mounts.filesystem("tmpfs", options, attributes=attributes)
        try:
            syscalls.move_mount(tree_fd, "", target_fd=target_fd)
        finally:
            os.close(tree_fd)
    finally:
        os.close(target_fd)


def await_trees(start: Start) -> None:
    """Stand here, in a container made ahead, until somebody asks for it and gives the trees."""
    if start.is_ahead:
        message, start.tree_fds = protocol.receive(start.reply)
        if message is None:
            os._exit(1)  # nobody will
        start.is_ahead = False


def bind_tree(start: Start, index: int, path: str, _source: str) -> None:
    """Attach a copy of a host tree where a person asked for it."""
    tree_fd = start.tree_fds[index]
    target_fd = _open_target(path)
    try:
        if stat.S_ISDIR(os.fstat(tree_fd).st_mode) != stat.S_ISDIR(os.fstat(target_fd).st_mode):
            reason = "one is a folder and the other is not"
            raise OSError(errno.ENOTDIR, reason, path)
        syscalls.move_mount(tree_fd, "", target_fd=target_fd)
    finally:
        os.close(target_fd)


def _open_target(path: str) -> int:
    """Open a mount point that a person has named; it may lie in what was mounted before.

    What is mounted has symlinks of its own, and none of them may lead to the kernel's files.
    """
    try:
        target_fd = open_inside(path, os.O_PATH)
    except OSError as error:
        reason = error.strerror
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            reason = "what is mounted there has no such path to mount it on"
        raise OSError(error.errno, reason, path) from None
    found = os.readlink(f"proc/self/fd/{target_fd}")
    if found.split("/")[1] in RESERVED:
        os.close(target_fd)
        raise OSError(errno.EBUSY, f"it leads to {found} by a symlink", path)
    return target_fd


def _attach_inside(tree_fd: int, path: str) -> None:
    target_fd = open_inside(path, os.O_PATH)
    try:
        syscalls.move_mount(tree_fd, "", target_fd=target_fd)
    finally:
        os.close(target_fd)


def mask_file(_start: Start, calls: list[prepared.Call], path: str) -> None:
    """Hide a file behind the null device."""
    prepared.make(calls)
    if not stat.S_ISCHR(os.stat(path).st_mode):
        raise OSError(errno.ENODEV, "the mask is not in place", path)


def prepare_mask(path: str) -> tuple[list[prepared.Call], str]:
    """Return the arguments of `mask_file`."""
    return [prepared.mount("/dev/null", path, None, MS_BIND)], path


def mask_dir(path: str) -> list[prepared.Call]:
    """Hide a folder behind an empty, read-only file system."""
    flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
    mount = prepared.mount("tmpfs", path, "tmpfs", flags, "size=0")
    return [mount, prepared.verify(path, mounts.TMPFS_MAGIC)]


def make_readonly(path: str) -> list[prepared.Call]:
    """Make a folder of proc read-only by a bind mount of itself."""
    flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
    return [
        prepared.mount(path, path, None, MS_BIND | MS_REC),
        prepared.mount(None, path, None, flags | MS_BIND | syscalls.MS_REMOUNT),
    ]


def forbid_user_namespaces(_start: Start) -> None:
    """Allow no user namespaces below this one (namespaces(7), /proc/sys/user)."""
    fd = os.open("proc/sys/user/max_user_namespaces", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, b"0")
    finally:
        os.close(fd)


def pivot(_start: Start) -> None:
    """Make the overlay the root; the host's files are gone."""
    mounts.pivot_here()


def set_hostname(_start: Start, name: str) -> None:
    """Name the container."""
    syscalls.sethostname(name)


def protect() -> list[prepared.Call]:
    """Let no process of the container trace this one, and die with the spawner."""
    return [
        prepared.prctl(syscalls.PR_SET_DUMPABLE, 0),
        prepared.prctl(syscalls.PR_SET_PDEATHSIG, signals.SIGKILL),
    ]


def drop_capabilities(kept: int) -> list[prepared.Call]:
    """Take from every command what is not in the mask, for good; PR_CAPBSET_DROP in prctl(2).

    Those that this kernel does not know (EINVAL) are left out.
    """
    return [
        prepared.prctl(syscalls.PR_CAPBSET_DROP, number)
        for number in range(len(capabilities.NAMES))
        if not kept >> number & 1
        and syscalls.raw_prctl(syscalls.PR_CAPBSET_READ, number, 0, 0, 0) >= 0
    ]


STEPS: dict[str, Callable[..., None]] = {
    "join_groups": join_groups,
    "become_root": become_root,
    "raise_loopback": raise_loopback,
    "attach_root": attach_root,
    "hold_staged": hold_staged,
    "attach_staged": attach_staged,
    "attach_host": attach_host,
    "bind_host_sys": bind_host_sys,
    "bind_device": bind_device,
    "make_point": make_point,
    "tmpfs": mount_tmpfs,
    "await_trees": await_trees,
    "bind": bind_tree,
    "mask_file": mask_file,
    "forbid_user_namespaces": forbid_user_namespaces,
    "pivot": pivot,
    "set_hostname": set_hostname,
}
PREPARED_ARGUMENTS: dict[str, Callable[..., tuple[Any, ...]]] = {
    "bind_device": prepare_device,
    "mask_file": prepare_mask,
}
PREPARED: dict[str, Callable[..., list[prepared.Call]]] = {
    "make_slave": make_slave,
    "take_name": take_name,
    "mount": mount_filesystem,
    "mask_dir": mask_dir,
    "make_readonly": make_readonly,
    "protect": protect,
    "drop_capabilities": drop_capabilities,
}
"""The steps that are nothing but system calls that can be known before."""


def prepare(steps: Sequence[Sequence[Any]]) -> list[Prepared]:
    """Look up, encode and allocate what the steps of a plan need, for every init to be forked."""
    found: list[Prepared] = []
    for name, *arguments in steps:
        if name in PREPARED:
            found.append((name, make, (PREPARED[name](*arguments),)))
        elif name in PREPARED_ARGUMENTS:
            found.append((name, STEPS[name], PREPARED_ARGUMENTS[name](*arguments)))
        else:
            found.append((name, STEPS[name], tuple(arguments)))
    return found


def prepare_all(plan: Mapping[str, Sequence[Sequence[Any]]]) -> dict[str, list[Prepared]]:
    """Prepare every part of a plan."""
    return {part: prepare(plan[part]) for part in plan}
