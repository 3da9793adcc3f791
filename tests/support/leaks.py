"""Look at everything that a test could leave behind, and tell what is new.

Reads /proc, the cgroup mounts and the temporary folder; starts and ends nothing. Network
namespaces need no look of their own: one lives only in a process, a mount or a descriptor, and
the descriptors of the session's engine are looked at, too.
"""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from process_table import NEWBORN, links_of, name_of, spares_of

PATIENCE_S = 5.0
PAUSE_S = 0.01
KERNEL_THREADS = 2
"""The parent of all kernel threads."""
SESSION_PROCESSES = 2
"""Warden and spawner; a nursery is replaced when somebody kills it."""

GROUP_PREFIX = "pytest-rootfs-"
COSTLY_TARGETS = ("anon_inode:[pidfd]", "net:", "mnt:", "user:", "pid:", "socket:", "pipe:")


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One line of the process table; what costs more is read when asked for."""

    pid: int
    parent: int
    state: str
    started: str

    @property
    def argv(self) -> str:
        """The command line; empty for a zombie, a kernel thread, and what has ended."""
        try:
            line = Path(f"/proc/{self.pid}/cmdline").read_bytes()
        except OSError:
            return ""
        return line.replace(b"\0", b" ").decode(errors="replace")

    @property
    def depth(self) -> int:
        """How many pid namespaces see it: one more in a container than for us."""
        try:
            lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        except OSError:
            return 0
        return next((len(line.split()) - 1 for line in lines if line.startswith("NSpid:")), 1)

    def __str__(self) -> str:
        """Tell about it in a leak report."""
        return f"process {self.pid} ({self.state}, parent {self.parent}): {self.argv[:120]}"


@dataclass(slots=True, kw_only=True)
class Sight:
    """What there is at one moment."""

    engine: tuple[int, ...] = ()
    processes: dict[tuple[int, str], Process] = field(default_factory=dict)
    mounts: dict[str, str] = field(default_factory=dict)
    groups: set[str] = field(default_factory=set)
    fds: Counter[str] = field(default_factory=Counter)
    engine_fds: dict[int, Counter[str]] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)


def look() -> Sight:
    """Return what there is now."""
    table = dict(_process_table())
    engine = _session_engine(table)
    spares = {spawner: len(spares_of(spawner)[:1]) for spawner in engine[1:2]}
    return Sight(
        engine=engine,
        processes=_strays(table, [*engine, *_nursery_and_spare_each(table)]),
        mounts=_mounts(),
        groups=set(_groups(engine)),
        fds=links_of(os.getpid()),
        # the rest of what a spare has is still on its way from the nursery
        engine_fds={
            pid: _costly(links_of(pid)) - Counter({"socket:": spares.get(pid, 0)}) for pid in engine
        },
        files=set(os.listdir(tempfile.gettempdir())),
    )


def wait_until_gone(before: Sight) -> list[str]:
    """Return what is there now and was not before, after waiting for it to go away."""
    deadline = time.monotonic() + PATIENCE_S
    after = look()
    groups = after.groups
    left = new_things(before, after)
    while left and time.monotonic() < deadline:
        gc.collect()  # an unreferenced socket or file closes when it is collected
        time.sleep(PAUSE_S)
        after = look()
        after.groups &= groups  # a warden that is killed later is another test's
        left = new_things(before, after)
    return left


def new_things(before: Sight, after: Sight) -> list[str]:
    """Return what is there after a test and was not before."""
    # an engine that was started in the test stays, with its sockets and groups
    started = after.engine[:SESSION_PROCESSES] != before.engine[:SESSION_PROCESSES]
    fds = Counter[str]() if started else after.fds - before.fds
    lasting = [] if started else [pid for pid in after.engine if pid in before.engine]
    engine_fds = sum((after.engine_fds[pid] - before.engine_fds[pid] for pid in lasting), Counter())
    groups = set[str]() if started else after.groups - before.groups
    return [
        *(str(after.processes[key]) for key in after.processes.keys() - before.processes.keys()),
        *(f"mount {after.mounts[key]}" for key in after.mounts.keys() - before.mounts.keys()),
        *(f"cgroup {path}" for path in groups),
        *(f"descriptor {target}" for target in fds.elements() if not _is_of_the_store(target)),
        *(f"descriptor of the engine: {target}" for target in engine_fds.elements()),
        *(f"temporary file {name}" for name in after.files - before.files),
    ]


def _process_table() -> Iterator[tuple[int, Process]]:
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (process := _read_process(int(entry))):
            yield process.pid, process


def _read_process(pid: int) -> Process | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read().rpartition(b")")[2].split()
    except OSError:
        return None  # it ended meanwhile
    return Process(pid=pid, parent=int(stat[1]), state=stat[0].decode(), started=stat[19].decode())


def _is_ours(process: Process) -> bool:
    """Tell whether a process is a warden, or one forked from it: they share a command line."""
    return "pytest_rootfs" in process.argv and " -I " in process.argv


def _session_engine(table: dict[int, Process]) -> tuple[int, ...]:
    """Return the pids of our oldest living warden, its spawner and the nursery of that."""
    wardens = [
        process.pid
        for process in table.values()
        if process.parent == os.getpid() and process.state != "Z" and _is_ours(process)
    ]
    if not wardens:
        return ()
    warden = min(wardens, key=lambda pid: int(table[pid].started))
    own_depth = table[os.getpid()].depth
    children = [x for x in table.values() if x.parent == warden and x.depth == own_depth]
    spawner = min(children, key=lambda child: int(child.started), default=None)
    if spawner is None:
        return (warden,)
    below = [x.pid for x in table.values() if x.parent == spawner.pid and x.depth == own_depth]
    return (warden, spawner.pid, *below)


def _nursery_and_spare_each(table: dict[int, Process]) -> list[int]:
    """Return of each spawner one nursery, which may be a new one, and one spare."""
    own_depth = table[os.getpid()].depth
    found = {
        (process.parent, process.depth > own_depth): process.pid
        for process in table.values()
        if name_of(process.pid) == NEWBORN
    }
    return list(found.values())


def _strays(table: dict[int, Process], engine: Sequence[int]) -> dict[tuple[int, str], Process]:
    """Return our descendants but the session's engine, and the orphans of engines that died."""
    found = {}
    for process in table.values():
        lineage = list(_lineage(process, table))
        if KERNEL_THREADS in (process.pid, process.parent) or process.pid in engine:
            continue
        is_reaped_by_us = process.state == "Z" and process.parent == os.getpid()
        if os.getpid() in lineage:
            is_stray = not is_reaped_by_us
        else:
            is_stray = _is_ours(process) and not any(_runs_tests(table[pid]) for pid in lineage)
        if is_stray:
            found[process.pid, process.started] = process
    return found


def _lineage(process: Process, table: dict[int, Process]) -> Iterator[int]:
    while process.parent in table:
        yield process.parent
        process = table[process.parent]


def _runs_tests(process: Process) -> bool:
    return "python" in process.argv and not _is_ours(process)


def _mounts() -> dict[str, str]:
    """Return our mounts by id, without those of other engines on this machine."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {line.split()[0]: line.split()[4] for line in lines if "/containers/" not in line}


def _groups(engine: tuple[int, ...]) -> Iterator[str]:
    """Return the groups below our engine's folders, and the folders of dead engines."""
    for parent, folders, _ in os.walk("/sys/fs/cgroup"):
        name = os.path.basename(parent)
        if not name.startswith(GROUP_PREFIX):
            continue
        owner = name.split("-")[3] if name.count("-") > 3 else ""
        if owner in map(str, engine):
            yield from (f"{parent}/{folder}" for folder in folders)
        elif not os.path.exists(f"/proc/{owner}"):
            yield parent


def _costly(fds: Counter[str]) -> Counter[str]:
    """Count the kinds that must not grow in a living engine; folders of layers it may keep."""
    kinds: Counter[str] = Counter()
    for target, count in fds.items():
        kinds.update({kind: count for kind in COSTLY_TARGETS if target.startswith(kind)})
    return kinds


def _is_of_the_store(target: str) -> bool:
    """Tell whether a descriptor is one that the session's engine keeps open in its store."""
    return target.startswith(os.environ.get("PYTEST_ROOTFS_STORE", "\0"))
