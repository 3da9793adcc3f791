"""Look at the memory of processes; proc_pid_smaps_rollup(5)."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

NOT_OURS = "only root may look into our processes"


class Memory(NamedTuple):
    """The memory of a process, in MB."""

    resident: float
    """RSS: all that is in its page tables, shared or not."""
    proportional: float
    """PSS: shared pages divided by how many share them."""
    private: float
    """USS: what would be free if it ended."""


def memory_of(pid: int) -> Memory:
    """Return the memory of a process that lives.

    Raises PermissionError for an ordinary user: our processes let nobody look into them.
    """
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kb = {key: int(value.split()[0]) for key, _, value in (line.partition(":") for line in lines)}
    private_kb = kb["Private_Clean"] + kb["Private_Dirty"]
    return Memory(kb["Rss"] / 1024, kb["Pss"] / 1024, private_kb / 1024)


def may_look(pid: int) -> bool:
    """Tell whether the memory of a process can be read."""
    try:
        memory_of(pid)
    except PermissionError:  # from open(2): access(2) looks at the mode alone
        return False
    return True


def children_of(pid: int) -> list[int]:
    """Return the children of a process's first thread."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
