"""What is kept of a command for the report of a failure."""

from __future__ import annotations

from dataclasses import dataclass

TAIL_BYTES = 4000


@dataclass(slots=True, kw_only=True)
class CommandRecord:
    """One command that was run or started; without `returncode` while nobody has seen its end."""

    argv: list[str]
    returncode: int | None = None
    duration_s: float | None = None
    output_tail: str = ""
    timed_out: bool = False
