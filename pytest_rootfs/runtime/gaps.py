"""What this host lacks, in the words that errors, the head of a report and `doctor` share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Why something is missing, and the command that brings it; both empty when nothing is."""

    reason: str = ""
    repair: str = ""

    def __bool__(self) -> bool:
        """Tell whether there is something to say."""
        return bool(self.reason)


NO_GAP = Gap()
