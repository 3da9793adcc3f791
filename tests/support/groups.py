"""Sessions, inits and commands by plain forks, for the tests of control groups."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from pytest_rootfs.kernel import cgroups_files
from pytest_rootfs.kernel.cgroups import Group, Parent, find_parent
from pytest_rootfs.kernel.cgroups_v2 import V2Hierarchy

NOBODY = 65534
SHIFTED = 1_234_567
KILLED = 128 + signal.SIGKILL


@contextlib.contextmanager
def session(explicit: str | None = None, owner: tuple[int, int] | None = None) -> Iterator[Parent]:
    found = find_parent(explicit, owner)
    try:
        yield found
    finally:
        removed = found.remove()
        found.close()
    assert removed


def fork(body: Callable[[], int | None]) -> int:
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            status = body() or 0
        finally:
            os._exit(status)
    return pid


def status_of(pid: int) -> int:
    """Return an exit status as shells write it: 128 + N for a signal."""
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return 128 - status if status < 0 else status


def start_command(group: Group, command: Callable[[], int | None]) -> int:
    """Start an init that joins as init does, and its command, in one process group.

    The init's exit status is the command's.
    """

    def be_init() -> int:
        os.setpgid(0, 0)
        for fd in group.init_tasks:
            os.write(fd, b"0")
        return status_of(fork(be_command))

    def be_command() -> int | None:
        for fd in group.command_tasks:
            os.write(fd, b"0")
        if group.into_fd is not None:
            os.write(os.open("cgroup.procs", os.O_WRONLY, dir_fd=group.into_fd), b"0")
        return command()

    return fork(be_init)


def kill_all(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def become(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def run_command(group: Group, command: Callable[[], int | None]) -> int:
    pid = start_command(group, command)
    status = status_of(pid)
    kill_all(pid)
    return status


def join_and_pause(folder: cgroups_files.Folder, procs: str) -> None:
    folder.write(procs, "0")
    signal.pause()


def burn() -> None:
    while True:
        pass


def take_memory(size_bytes: int) -> None:
    # the kernel kills who has most, and a fork has what its parent has; this one is to be it
    Path("/proc/self/oom_score_adj").write_text("1000")
    taken = [b"x" * (1 << 20) for _ in range(size_bytes >> 20)]
    assert taken


def count_forks_until_refused() -> int:
    for count in range(50):
        try:
            pid = os.fork()
        except BlockingIOError:
            return count
        if pid == 0:
            signal.pause()
    return 99


def file_of(group: Group, *names: str) -> str:
    """Return the first of these files that one of the group's folders has."""
    for hierarchy in group.parent.hierarchies:
        for name in names:
            text = hierarchy.folder.read(f"{group.name}/{name}")
            if text is not None:
                return text.strip()
    raise AssertionError(names)


def is_on_v2(parent: Parent, controller: str) -> bool:
    return any(
        controller in hierarchy.controllers
        for hierarchy in parent.hierarchies
        if isinstance(hierarchy, V2Hierarchy)
    )


def memory_of(group: Group) -> str:
    return file_of(group, "memory.max", "memory.limit_in_bytes")


def dead_pid() -> int:
    pid = fork(lambda: 0)
    os.waitpid(pid, 0)
    return pid
