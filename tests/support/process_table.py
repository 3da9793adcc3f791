"""Processes of this machine, as /proc tells of them; proc_pid_stat(5)."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

NEWBORN = "rootfs-nursery"
"""What a process is called that waits to become process 1 of a container."""


def stat_fields(pid: int) -> list[str]:
    """Return the state, the parent and what follows; nothing of a process that is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return []


def is_alive(pid: int) -> bool:
    """Tell whether a process has not ended; a zombie has."""
    return stat_fields(pid)[:1] not in ([], ["Z"], ["X"])


def parent_of(pid: int) -> int:
    """Return the parent of a living process."""
    return int(stat_fields(pid)[1])


def children_of(pid: int) -> list[int]:
    """Return the children of a process, zombies included; none of one that is gone."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [child for child in pids if stat_fields(child)[1:2] == [str(pid)]]


def only_child_of(pid: int) -> int:
    """Return the one living child that a process has."""
    (child,) = filter(is_alive, children_of(pid))
    return child


def inits_of(spawner: int) -> list[int]:
    """Return the children of a spawner that are process 1 of a container."""
    return [pid for pid in _deeper_than(spawner) if name_of(pid) != NEWBORN]


def spares_of(spawner: int) -> list[int]:
    """Return the children of a spawner that wait to become process 1 of a container."""
    return [pid for pid in _deeper_than(spawner) if name_of(pid) == NEWBORN]


def nurseries_of(spawner: int) -> list[int]:
    """Return the living children of a spawner in which its inits are born: one, or none yet."""
    children = set(children_of(spawner)) - set(_deeper_than(spawner))
    return [pid for pid in children if is_alive(pid)]


def nursery_of(spawner: int) -> int:
    """Return the child of a spawner in which its inits are born."""
    (pid,) = nurseries_of(spawner)
    return pid


def name_of(pid: int) -> str:
    """Return the name of a process, nothing if it is gone; proc_pid_comm(5)."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().rstrip("\n")
    except OSError:
        return ""


def links_of(pid: int) -> Counter[str]:
    """Count what the descriptors of a process lead to; none of one that may not be looked into."""
    found: Counter[str] = Counter()
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return found  # it is gone, or has other ids: the engine of an ordinary user
    for name in names:
        try:
            found[os.readlink(f"/proc/{pid}/fd/{name}")] += 1
        except OSError:
            continue  # closed meanwhile, as that of the listing itself
    return found


def depth_of(pid: int) -> int:
    """Return in how many pid namespaces a process is, none if it is gone; proc_pid_status(5)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((len(line.split()) - 1 for line in lines if line.startswith("NSpid:")), 0)


def descendants_of(pid: int) -> list[int]:
    """Return the children of a process, and theirs, zombies included."""
    children = children_of(pid)
    return [*children, *(below for child in children for below in descendants_of(child))]


def _deeper_than(spawner: int) -> list[int]:
    return [child for child in children_of(spawner) if depth_of(child) > depth_of(spawner)]
