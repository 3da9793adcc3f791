"""A container's life in the rhythm of a suite: every candidate pauses as long as a test does.

Between two commands the caches fill with other things and the processors fall asleep; the floor and
other engines pay for that, too.
"""

from __future__ import annotations

import functools
import time

from benchmarks.engines import Engines, engines_on
from benchmarks.figures import Result, Samples, interleaved
from benchmarks.phases import BODY_S, lives
from benchmarks.stage import Stage
from benchmarks.tests import MADE_AHEAD, beyond_plain

ABOUT = "the same lives, each with 10 ms of something else before its command, as a test has"
ENGINES = ("bwrap", "runc")


def measure(stage: Stage) -> Result:
    """Measure the floor, ours and other engines, all with the same pauses."""
    effort, result = stage.effort, Result()
    floor = stage.floor
    if floor is None:
        result.refused["floor"] = stage.floor_refusal
    folder = stage.folder / "rhythm"
    folder.mkdir()
    with engines_on(stage.layers("minimal"), folder) as others:
        turns = [
            *([] if floor is None else [functools.partial(floor.measure, effort.turn, BODY_S)]),
            functools.partial(lives, stage.cold, "cold", effort.turn, body_s=BODY_S),
            functools.partial(lives, stage.ahead, "ahead", effort.turn, body_s=BODY_S),
            functools.partial(made_ahead, stage),
            *(
                functools.partial(after_pauses, others, name, effort.turn)
                for name in ENGINES
                if name in others.commands
            ),
        ]
        samples = interleaved(effort.rounds, turns)
    whole = ("floor", "cold", "ahead", MADE_AHEAD, *ENGINES)
    for name in whole:
        if name in samples:
            result.add({name: samples[name]}, beside="floor")
    return result


def made_ahead(stage: Stage) -> Samples:
    """Return the milliseconds of tests of pytest beyond the median plain one."""
    return {MADE_AHEAD: beyond_plain(stage)[MADE_AHEAD]}


def after_pauses(engines: Engines, name: str, runs: int) -> Samples:
    """Return the milliseconds of running another engine to its end, after a pause each time."""
    samples = []
    for _ in range(runs):
        time.sleep(BODY_S)
        samples += engines.measure(name, 1)[name]
    return {name: samples}
