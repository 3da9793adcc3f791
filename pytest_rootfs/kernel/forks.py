"""Fork into new namespaces and into a control group, whichever call may be used for it.

A seccomp filter cannot see the arguments of clone3(2), so older profiles of container engines
refuse it as a whole; clone(2) does the same, but for the control group.
"""

from __future__ import annotations

import os

from pytest_rootfs.kernel import syscalls

_has_clone3: list[bool] = []


def has_clone3() -> bool:
    """Tell whether clone3(2) may be called; asked once, the answer is inherited by every fork."""
    if not _has_clone3:
        _has_clone3.append(syscalls.knows_clone3())
    return _has_clone3[0]


def fork(flags: int = 0) -> tuple[int, int]:
    """Fork into new namespaces; return (pid, pidfd) in the parent, (0, -1) in the child.

    The caller must be single-threaded (see `syscalls.clone3`).
    """
    return syscalls.clone3(flags) if has_clone3() else syscalls.clone(flags)


def fork_into(cgroup_fd: int, flags: int) -> tuple[int, int]:
    """Fork into new namespaces and a group of cgroup v2, whose folder is given; Linux 5.7.

    Without clone3(2) the child joins by itself, which costs some 10 ms, and before it enters its
    control group namespace: from inside, other groups cannot be named.
    """
    if has_clone3():
        every = flags | syscalls.CLONE_INTO_CGROUP
        return syscalls.clone3(every, cgroup_fd=cgroup_fd)
    pid, pidfd = syscalls.clone(flags & ~syscalls.CLONE_NEWCGROUP)
    if pid == 0:
        join(cgroup_fd)
        syscalls.unshare(flags & syscalls.CLONE_NEWCGROUP)
    return pid, pidfd


def join(cgroup_fd: int) -> None:
    """Enter a group of cgroup v2, whose folder is given."""
    procs_fd = os.open("cgroup.procs", os.O_WRONLY | os.O_CLOEXEC, dir_fd=cgroup_fd)
    try:
        os.write(procs_fd, b"0")
    finally:
        os.close(procs_fd)
