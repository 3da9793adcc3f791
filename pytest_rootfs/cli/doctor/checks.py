"""One line of `doctor`: a feature and its state; and what all checks are told."""

from __future__ import annotations

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
    text: str


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
