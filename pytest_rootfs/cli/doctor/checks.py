"""One line of `doctor`: a feature and its state; and what all checks are told."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from pytest_rootfs.runtime.surroundings import Surroundings

State = Literal["ok", "degraded", "missing", "not tried"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A feature, its state, what was found; if not ok, what follows from it and the repair."""

    name: str
    state: State
    found: str
    consequence: str = ""
    repair: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The kernel's answer to a trial that failed."""

    number: int
    call: str
    """As `OSError.filename` has it: the name of the call and what it was given."""

    @property
    def text(self) -> str:
        """What it says, and to which call."""
        return f"{os.strerror(self.number)} ({self.call})"

    @property
    def error(self) -> OSError:
        """The answer as it was raised."""
        return OSError(self.number, os.strerror(self.number), self.call)


Trials = dict[str, "Refused | None"]
"""Name of a trial → None if it worked; one that an earlier failure makes impossible is absent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was read and what was tried of this host."""

    around: Surroundings
    trials: Trials


def not_tried(name: str, reason: str = "an earlier line makes it impossible") -> Check:
    """Return the line of a feature that could not be looked at."""
    return Check(name=name, state="not tried", found=reason)
