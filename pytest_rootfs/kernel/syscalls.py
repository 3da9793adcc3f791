"""Thin wrappers of the Linux system calls that the standard library lacks.

The only file with ctypes. One prototype a call; every failure is an `OSError` whose text names
the call and its argument. Policy, paths and fallbacks are beyond its scope. Calls from number
424 on have the same number on every architecture (Linux, scripts/syscall.tbl).
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any  # prototypes are of many types, none of which ctypes exports

# linux/sched.h
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_PIDFD = 0x00001000
CLONE_PARENT = 0x00008000
CLONE_INTO_CGROUP = 0x200000000

# linux/mount.h
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000
MNT_DETACH = 2
OPEN_TREE_CLONE = 1
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_IDMAP = 0x00100000
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_EMPTY_PATH = 0x40
FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_SET_FD = 5
FSCONFIG_CMD_CREATE = 6
FSCONFIG_CMD_RECONFIGURE = 7
FSPICK_CLOEXEC = 1
FSPICK_EMPTY_PATH = 8

# linux/fcntl.h, linux/openat2.h
AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_IN_ROOT = 0x10

# linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
PR_SET_DUMPABLE = 4
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24

OPENAT2_TRIES = 64
_SIGCHLD = 17
_AF_INET, _SOCK_DGRAM, _SIOCSIFFLAGS = 2, 2 | os.O_CLOEXEC, 0x8914
_LOOPBACK_UP = b"lo".ljust(16, b"\0") + (1).to_bytes(2, sys.byteorder).ljust(24, b"\0")  # ifreq
_CLONE = {"x86_64": 56, "aarch64": 220, "riscv64": 220, "ppc64le": 120}

_LIBC = ctypes.PyDLL(None, use_errno=True)  # PyDLL: the GIL stays held across clone3, as in os.fork
_int, _uint, _long, _str = ctypes.c_int, ctypes.c_uint, ctypes.c_long, ctypes.c_char_p
_ulong, _size, _pointer = ctypes.c_ulong, ctypes.c_size_t, ctypes.c_void_p


def _numbers(names: str) -> list[tuple[str, Any]]:
    return [(name, ctypes.c_uint64) for name in names.split()]


class _CloneArgs(ctypes.Structure):
    _fields_ = _numbers(
        "flags pidfd child_tid parent_tid exit_signal stack stack_size tls set_tid set_tid_size "
        "cgroup"
    )


class _MountAttr(ctypes.Structure):
    _fields_ = _numbers("attr_set attr_clr propagation userns_fd")


class _OpenHow(ctypes.Structure):
    _fields_ = _numbers("flags mode resolve")


class _Statfs(ctypes.Structure):
    _fields_ = [("type", ctypes.c_long), ("rest", ctypes.c_long * 15)]


def _function(name: str, *argtypes: Any) -> Callable[..., int]:
    call = _LIBC[name]
    call.argtypes = argtypes
    call.restype = _int
    return call


def _syscall(number: int, *argtypes: Any) -> Callable[..., int]:
    call = _LIBC["syscall"]  # subscription makes a new function object, with types of its own
    call.argtypes = (_long, *argtypes)
    call.restype = _long
    return lambda *arguments: call(number, *arguments)


raw_mount = _function("mount", _str, _str, _str, _ulong, _str)
_umount2 = _function("umount2", _str, _int)
_unshare = _function("unshare", _int)
_setns = _function("setns", _int, _int)
raw_prctl = _function("prctl", _int, _ulong, _ulong, _ulong, _ulong)
raw_set_name = _function("prctl", _int, _str, _ulong, _ulong, _ulong)
_pivot_root = _function("pivot_root", _str, _str)
_sethostname = _function("sethostname", _str, _size)
_statfs = _function("statfs", _str, _pointer)
_fstatfs = _function("fstatfs", _int, _pointer)
_socket = _function("socket", _int, _int, _int)
_ioctl = _function("ioctl", _int, _ulong, _str)
_syncfs = _function("syncfs", _int)
_signalfd = _function("signalfd", _int, _str, _int)
_open_tree = _syscall(428, _int, _str, _uint)
_move_mount = _syscall(429, _int, _str, _int, _str, _uint)
_fsopen = _syscall(430, _str, _uint)
_fsconfig = _syscall(431, _int, _uint, _str, _str, _int)
_fsmount = _syscall(432, _int, _uint, _uint)
_fspick = _syscall(433, _int, _str, _uint)
_clone3 = _syscall(435, _pointer, _size)
# flags, stack, parent's tid; the other two are in another order on each architecture
_clone = _syscall(_CLONE.get(os.uname().machine, -1), _ulong, *[_pointer] * 4)
_openat2 = _syscall(437, _int, _str, ctypes.POINTER(_OpenHow), _size)
_mount_setattr = _syscall(442, _int, _str, _uint, _pointer, _size)


_open_hows: dict[tuple[int, int, int], _OpenHow] = {}
_OPEN_HOW_BYTES = ctypes.sizeof(_OpenHow)
_found = _Statfs()
_found_address = ctypes.addressof(_found)


def checked(result: int, call: str, argument: object) -> int:
    """Return the result of a raw call; raise the OSError that a negative one stands for."""
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), f"{call} {argument}")
    return result


def raw_verify(path: bytes, magic: int) -> int:
    """Raise OSError (ENOTDIR) unless the file system at a path is the one meant; statfs(2)."""
    if _statfs(path, _found_address) < 0:
        return -1
    if _found.type & 0xFFFFFFFF != magic:
        raise OSError(errno.ENOTDIR, "what was mounted is another file system", os.fsdecode(path))
    return 0


def raise_loopback() -> None:
    """Bring the loopback interface of this network namespace up; netdevice(7)."""
    socket_fd = checked(_socket(_AF_INET, _SOCK_DGRAM, 0), "socket", "AF_INET")
    try:
        checked(_ioctl(socket_fd, _SIOCSIFFLAGS, _LOOPBACK_UP), "ioctl", "SIOCSIFFLAGS lo")
    finally:
        os.close(socket_fd)


def _bytes(text: str | bytes | None) -> bytes | None:
    return os.fsencode(text) if text is not None else None


def mount(
    source: str | bytes | None,
    target: str | bytes,
    kind: str | None,
    flags: int = 0,
    options: str | None = None,
) -> None:
    """Mount, bind, remount or change propagation; mount(2)."""
    result = raw_mount(_bytes(source), _bytes(target), _bytes(kind), flags, _bytes(options))
    checked(result, "mount", f"{kind or source!r} on {target!r}")


def umount2(target: str | bytes, flags: int) -> None:
    """Unmount; umount2(2)."""
    checked(_umount2(_bytes(target), flags), "umount2", target)


def unshare(flags: int) -> None:
    """Move this process into new namespaces; unshare(2)."""
    checked(_unshare(flags), "unshare", hex(flags))


def setns(namespace_fd: int, kind: int) -> None:
    """Move this thread into a namespace; setns(2)."""
    checked(_setns(namespace_fd, kind), "setns", namespace_fd)


def prctl(option: int, value: int) -> None:
    """Change an attribute of this process; prctl(2)."""
    checked(raw_prctl(option, value, 0, 0, 0), "prctl", f"{option} {value}")


def pivot_root(new_root: str, put_old: str) -> None:
    """Exchange the root of the mount namespace; pivot_root(2)."""
    checked(_pivot_root(_bytes(new_root), _bytes(put_old)), "pivot_root", new_root)


def sethostname(name: str) -> None:
    """Set the name in this UTS namespace; sethostname(2)."""
    checked(_sethostname(name.encode(), len(name.encode())), "sethostname", name)


def filesystem_magic(fd: int) -> int:
    """Return the magic number of the file system that a descriptor is on; fstatfs(2)."""
    result = _Statfs()
    checked(_fstatfs(fd, ctypes.addressof(result)), "fstatfs", fd)
    magic: int = result.type
    return magic & 0xFFFFFFFF


def syncfs(fd: int) -> None:
    """Write all of the file system that a descriptor is on to its disk; syncfs(2)."""
    checked(_syncfs(fd), "syncfs", fd)


def signalfd(signals: int) -> int:
    """Return a descriptor that is readable while a signal of the mask is pending; signalfd(2).

    Bit N-1 stands for signal N. The signals must be blocked. An inherited descriptor reports the
    signals of whichever process polls it.
    """
    mask = signals.to_bytes(8, "little") + bytes(120)  # sigset_t of glibc and musl: 128 bytes
    flags = os.O_CLOEXEC | os.O_NONBLOCK  # SFD_CLOEXEC and SFD_NONBLOCK have these values
    return checked(_signalfd(-1, mask, flags), "signalfd", hex(signals))


def fsopen(kind: str) -> int:
    """Open a context to make a file system; fsopen(2), Linux 5.2."""
    return checked(_fsopen(kind.encode(), 1), "fsopen", kind)  # 1: FSOPEN_CLOEXEC


def fsconfig_string(fs_fd: int, key: str, value: str) -> None:
    """Set an option to a string of at most 255 bytes; fsconfig(2)."""
    if _fsconfig(fs_fd, FSCONFIG_SET_STRING, key.encode(), os.fsencode(value), 0) < 0:
        checked(-1, "fsconfig", f"{key}={value}")


def fsconfig_flag(fs_fd: int, key: str) -> None:
    """Set an option that has no value; fsconfig(2)."""
    checked(_fsconfig(fs_fd, FSCONFIG_SET_FLAG, key.encode(), None, 0), "fsconfig", key)


def fsconfig_fd(fs_fd: int, key: str, value_fd: int) -> None:
    """Set an option to a descriptor; fsconfig(2), for overlay layers Linux 6.13."""
    if _fsconfig(fs_fd, FSCONFIG_SET_FD, key.encode(), None, value_fd) < 0:
        checked(-1, "fsconfig", f"{key}=fd {value_fd}")


def fsconfig_create(fs_fd: int) -> None:
    """Make the file system that the context describes; fsconfig(2)."""
    checked(_fsconfig(fs_fd, FSCONFIG_CMD_CREATE, None, None, 0), "fsconfig", "create")


def fsconfig_reconfigure(fs_fd: int) -> None:
    """Apply the context's options to its file system; fsconfig(2)."""
    checked(_fsconfig(fs_fd, FSCONFIG_CMD_RECONFIGURE, None, None, 0), "fsconfig", "reconfigure")


def fspick(mount_fd: int) -> int:
    """Open a context to reconfigure the file system of a mount; fspick(2), Linux 5.2."""
    flags = FSPICK_CLOEXEC | FSPICK_EMPTY_PATH
    return checked(_fspick(mount_fd, b"", flags), "fspick", mount_fd)


def fsmount(fs_fd: int, attributes: int) -> int:
    """Return a detached mount of the context's file system; fsmount(2)."""
    return checked(_fsmount(fs_fd, 1, attributes), "fsmount", fs_fd)  # 1: FSMOUNT_CLOEXEC


def open_tree(fd: int, path: str | bytes, flags: int) -> int:
    """Open, or with OPEN_TREE_CLONE copy, the mount tree at a path; open_tree(2)."""
    empty = AT_EMPTY_PATH if not path else 0
    result = _open_tree(fd, _bytes(path), flags | empty | os.O_CLOEXEC)
    return checked(result, "open_tree", path or f"fd {fd}")


def move_mount(mount_fd: int, target: str | bytes, *, target_fd: int = AT_FDCWD) -> None:
    """Attach a detached mount at a path, or with an empty one on `target_fd`; move_mount(2)."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | (0 if target else MOVE_MOUNT_T_EMPTY_PATH)
    result = _move_mount(mount_fd, b"", target_fd, _bytes(target), flags)
    checked(result, "move_mount", target or f"fd {target_fd}")


def mount_setattr(
    mount_fd: int,
    path: str,
    *,
    attributes: int,
    recursive: bool,
    userns_fd: int = 0,
    propagation: int = 0,
) -> None:
    """Add attributes to a mount or, recursively, to a mount tree; mount_setattr(2), Linux 5.12."""
    attr = _MountAttr(attr_set=attributes, userns_fd=userns_fd, propagation=propagation)
    flags = (AT_RECURSIVE if recursive else 0) | (AT_EMPTY_PATH if not path else 0)
    size = ctypes.sizeof(attr)
    result = _mount_setattr(mount_fd, path.encode(), flags, ctypes.addressof(attr), size)
    checked(result, "mount_setattr", path or f"fd {mount_fd}")


def openat2(dir_fd: int, path: str | bytes, flags: int, *, mode: int = 0, resolve: int) -> int:
    """Open a path with rules for its resolution; openat2(2), Linux 5.6.

    Tries again when a rename anywhere on the machine has crossed a `..` (ERRORS, EAGAIN).
    """
    key = flags | os.O_CLOEXEC, mode, resolve
    how = _open_hows.get(key)
    if how is None:  # there are few, and none is ever changed
        how = _open_hows.setdefault(key, _OpenHow(*key))
    raw_path = os.fsencode(path)
    for _ in range(OPENAT2_TRIES):
        result = _openat2(dir_fd, raw_path, how, _OPEN_HOW_BYTES)
        if result >= 0 or ctypes.get_errno() != errno.EAGAIN:
            break
    return checked(result, "openat2", path)


def knows_openat2() -> bool:
    """Tell whether openat2(2) is not filtered away: known, it refuses a structure of no size."""
    return _openat2(-1, b"", None, 0) < 0 and ctypes.get_errno() == errno.EINVAL


def knows_clone3() -> bool:
    """Tell whether clone3(2) is not filtered away, as where filters must see its flags."""
    return _clone3(None, 0) < 0 and ctypes.get_errno() == errno.EINVAL


def clone3(flags: int, *, cgroup_fd: int = 0) -> tuple[int, int]:
    """Fork into new namespaces; return (pid, pidfd) in the parent, (0, -1) in the child; clone3(2).

    The caller must be single-threaded: handlers of pthread_atfork do not run. The three hooks of
    the interpreter do; without them a thread started in the child crashes it.
    """
    pidfd = ctypes.c_int(-1)
    args = _CloneArgs(
        flags=flags | CLONE_PIDFD,
        pidfd=ctypes.addressof(pidfd),
        exit_signal=0 if flags & CLONE_PARENT else _SIGCHLD,  # that of the caller, then
        cgroup=cgroup_fd,
    )
    pid = _forked(_clone3, ctypes.addressof(args), ctypes.sizeof(args))
    return checked(pid, "clone3", hex(flags)), pidfd.value


def clone(flags: int) -> tuple[int, int]:
    """Do as `clone3`, but for what takes more than 32 bits of flags; clone(2)."""
    pidfd = ctypes.c_int(-1)
    every = flags | CLONE_PIDFD | _SIGCHLD
    pid = _forked(_clone, every, None, ctypes.addressof(pidfd), None, None)
    return checked(pid, "clone", hex(flags)), pidfd.value


def _forked(call: Callable[..., int], *args: object) -> int:
    ctypes.pythonapi.PyOS_BeforeFork()
    pid = call(*args)
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0
    error = ctypes.get_errno()  # the hook below may change it
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    ctypes.set_errno(error)
    return pid


def set_title(title: str) -> None:
    """Replace the command line of this process, which its forks inherit, in /proc/self/cmdline.

    The words lie between `arg_start` and `arg_end` (proc_pid_stat(5), fields 48 and 49) in memory
    of our own; the rest is filled with null characters, which readers cut off.
    """
    with open("/proc/self/stat", "rb") as stream:
        fields = stream.read().rpartition(b") ")[2].split()
    start, end = int(fields[45]), int(fields[46])
    if 0 < start < end:
        size = end - start
        ctypes.memmove(start, title.encode()[: size - 1].ljust(size, b"\0"), size)
