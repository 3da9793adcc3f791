"""The steps of a plan that the init carries out, each under the name that the plan gives it.

The current directory is the new root from `attach_root` to `pivot`; relative paths are the
container's, absolute ones the host's. All paths here are placed in the init layer, so no symlink of
an image can lead them astray; those that people name are opened by `open_inside`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import socket
import stat
import struct

from pytest_rootfs.kernel import capabilities, mounts, syscalls
from pytest_rootfs.kernel.inside import open_inside
from pytest_rootfs.kernel.syscalls import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_REC
from pytest_rootfs.runtime.init_layer import OVERFLOW_ID, RESERVED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_rootfs.runtime.init import Start

IFREQ_FLAGS = struct.Struct("16sh14x")  # struct ifreq with ifr_flags, linux/if.h
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


def set_rlimits(_start: Start) -> None:
    """Let no process of a container write a core file into it."""
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


def join_groups(start: Start) -> None:
    """Enter the cgroups that an init may be limited by (v1: each process writes itself)."""
    for fd in start.group.init_tasks:
        os.write(fd, b"0")


def become_root(_start: Start) -> None:
    """Become uid and gid 0 of the container's user namespace."""
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def raise_loopback(_start: Start) -> None:
    """Bring the loopback interface up; netdevice(7)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = IFREQ_FLAGS.pack(b"lo", 0)
        name, flags = IFREQ_FLAGS.unpack(fcntl.ioctl(any_socket, SIOCGIFFLAGS, request))
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, IFREQ_FLAGS.pack(name, flags | IFF_UP))


def make_private(_start: Start) -> None:
    """Cut the mounts off from those they were copied from."""
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)


def attach_root(start: Start, readonly: bool) -> None:  # noqa: FBT001  a step's arguments are data
    """Attach the overlay over the old root and stand in it."""
    syscalls.move_mount(start.root.overlay_fd, "/")
    os.fchdir(start.root.overlay_fd)
    if readonly:  # mount_setattr(2) would need Linux 5.12
        syscalls.mount(None, ".", None, MS_RDONLY | MS_BIND | syscalls.MS_REMOUNT)


def attach_host(start: Start) -> None:
    """Attach the folders of the host that an ordinary user's view of it is made of."""
    for fd, path in start.root.trees:
        _attach_inside(fd, path)


def mount_filesystem(_start: Start, kind: str, path: str, options: str) -> None:
    """Mount a new file system of the kernel on a folder of the init layer, and verify it."""
    flags = MS_NOSUID | MS_NOEXEC | (0 if kind == "devpts" else MS_NODEV)
    syscalls.mount(kind, path, kind, flags | (MS_RDONLY if kind == "sysfs" else 0), options or None)
    _verify_magic(path, kind)


MAGICS = {
    "proc": mounts.PROC_MAGIC,
    "sysfs": mounts.SYSFS_MAGIC,
    "tmpfs": mounts.TMPFS_MAGIC,
    "devpts": mounts.DEVPTS_MAGIC,
    "mqueue": 0x19800202,
}


def _verify_magic(path: str, kind: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if syscalls.filesystem_magic(fd) != MAGICS[kind]:
            raise OSError(errno.ENOTDIR, f"what was mounted is not {kind}", path)
    finally:
        os.close(fd)


def bind_host_sys(_start: Start) -> None:
    """Show the host's /sys, read-only: a fresh sysfs needs a network namespace of one's own."""
    tree_fd = mounts.host_tree("/sys", readonly=True, recursive=True)
    syscalls.move_mount(tree_fd, "sys")
    os.close(tree_fd)


def bind_device(_start: Start, name: str, major: int, minor: int) -> None:
    """Show a device node of the host, and verify that it is the right one."""
    syscalls.mount(f"/dev/{name}", f"dev/{name}", None, MS_BIND)
    status = os.stat(f"dev/{name}", follow_symlinks=False)
    if not stat.S_ISCHR(status.st_mode) or status.st_rdev != os.makedev(major, minor):
        raise OSError(errno.ENODEV, f"not the character device {major}:{minor}", f"/dev/{name}")


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


def mask_file(_start: Start, path: str) -> None:
    """Hide a file behind the null device."""
    syscalls.mount("dev/null", path, None, MS_BIND)
    if not stat.S_ISCHR(os.stat(path).st_mode):
        raise OSError(errno.ENODEV, "the mask is not in place", path)


def mask_dir(_start: Start, path: str) -> None:
    """Hide a folder behind an empty, read-only file system."""
    syscalls.mount("tmpfs", path, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=0")
    _verify_magic(path, "tmpfs")


def make_readonly(_start: Start, path: str) -> None:
    """Make a folder of proc read-only by a bind mount of itself."""
    flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
    syscalls.mount(path, path, None, MS_BIND | MS_REC)
    syscalls.mount(None, path, None, flags | MS_BIND | syscalls.MS_REMOUNT)


def forbid_user_namespaces(_start: Start) -> None:
    """Allow no user namespaces below this one (namespaces(7), /proc/sys/user)."""
    fd = os.open("/proc/sys/user/max_user_namespaces", os.O_WRONLY | os.O_CLOEXEC)
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


def protect(_start: Start) -> None:
    """Let no process of the container trace this one, and die with the spawner."""
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)


def drop_capabilities(_start: Start, kept: int) -> None:
    """Take from every command what is not in the mask, for good; PR_CAPBSET_DROP in prctl(2)."""
    for number in range(len(capabilities.NAMES)):
        if not kept >> number & 1:
            try:
                syscalls.prctl(syscalls.PR_CAPBSET_DROP, number)
            except OSError as error:
                if error.errno != errno.EINVAL:  # this kernel does not know so high a number
                    raise


STEPS: dict[str, Callable[..., None]] = {
    "join_groups": join_groups,
    "set_rlimits": set_rlimits,
    "become_root": become_root,
    "raise_loopback": raise_loopback,
    "make_private": make_private,
    "attach_root": attach_root,
    "attach_host": attach_host,
    "mount": mount_filesystem,
    "bind_host_sys": bind_host_sys,
    "bind_device": bind_device,
    "make_point": make_point,
    "tmpfs": mount_tmpfs,
    "bind": bind_tree,
    "mask_file": mask_file,
    "mask_dir": mask_dir,
    "make_readonly": make_readonly,
    "forbid_user_namespaces": forbid_user_namespaces,
    "pivot": pivot,
    "set_hostname": set_hostname,
    "protect": protect,
    "drop_capabilities": drop_capabilities,
}
