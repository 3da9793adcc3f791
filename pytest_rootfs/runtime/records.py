"""What is kept of a command for the report of a failure."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

TAIL_BYTES = 4000


@dataclass(slots=True, kw_only=True)
class CommandRecord:
    """One command that was run or started; without `returncode` while nobody has seen its end."""

    argv: list[str]
    returncode: int | None = None
    duration_s: float | None = None
    output_tail: str = ""
    timed_out: bool = False
    started: bool = True
    """False where the container could not start it; `output_tail` then says why."""
    began_ns: int = field(default_factory=time.time_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptFiles:
    """What became of a rw layer: its changes, and where it is kept.

    Each change is a ChangeRecord as JSON with `changed_ns`. Without a layer `refused` says why, if
    it was asked for. `skipped` says in words what an archive cannot hold.
    """

    changes: list[dict[str, Any]]  # Any: JSON values
    layer: Any = None  # Any: a descriptor of the store, not known here
    refused: str = ""
    skipped: tuple[str, ...] = ()
