"""Collect remarks about files without an end to their number."""

from __future__ import annotations

NOTES_MAX = 50


class Notes:
    """The first fifty remarks, and how many more there were: they travel in one small message."""

    def __init__(self) -> None:
        self._notes: list[str] = []
        self._left_out = 0

    def add(self, note: str) -> None:
        """Keep a remark, or count it."""
        if len(self._notes) < NOTES_MAX:
            self._notes.append(note)
        else:
            self._left_out += 1

    def shown(self) -> tuple[str, ...]:
        """Return the remarks, the last of which may be a count."""
        rest = (f"and {self._left_out} more",) if self._left_out else ()
        return (*self._notes, *rest)
