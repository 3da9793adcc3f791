"""What this host lacks, in the words that errors, the head of a report and `doctor` share."""

from __future__ import annotations

from typing import NamedTuple


class Gap(NamedTuple):  # the head of every report makes one, and dataclasses would cost it 2 ms
    """Why something is missing, and the command that brings it; both empty when nothing is."""

    reason: str = ""
    repair: str = ""

    def __bool__(self) -> bool:
        """Tell whether there is something to say."""
        return bool(self.reason)


NO_GAP = Gap()
