"""What this host lacks, in the words that errors, the head of a report and `doctor` share."""

from __future__ import annotations


class Gap:
    """Why something is missing, and the command that brings it; both empty when nothing is."""

    # a plain class: the head of every report makes one, and as a NamedTuple it would cost 0.2 ms
    __slots__ = ("reason", "repair")

    def __init__(self, reason: str = "", repair: str = "") -> None:
        self.reason = reason
        self.repair = repair

    def __bool__(self) -> bool:
        """Tell whether there is something to say."""
        return bool(self.reason)


NO_GAP = Gap()
