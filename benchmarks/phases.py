"""What each phase of a container's life costs beside the C floor and other engines."""

from __future__ import annotations

import functools
import itertools
import os
import time

from benchmarks.engines import engines_on
from benchmarks.figures import Result, Samples, interleaved
from benchmarks.stage import Stage
from pytest_rootfs.engine import Engine
from pytest_rootfs.image import Image

ABOUT = "create, run `true`, close; made on demand (cold) or ahead; others from call to exit"
PHASES = ("create", "run", "close", "")
BODY_S = 0.01
"""What else a test does: in that time the next container is made."""


def measure(stage: Stage) -> Result:
    """Measure the floor, ours and the other engines."""
    effort, result = stage.effort, Result()
    floor = stage.floor
    if floor is None:
        result.refused["floor"] = stage.floor_refusal
    with engines_on(stage.layers("minimal"), stage.folder) as others:
        turns = [
            *([] if floor is None else [functools.partial(floor.measure, effort.turn)]),
            functools.partial(lives, stage.cold, "cold", effort.turn, body_s=0),
            functools.partial(lives_on_one_processor, stage, effort.turn),
            functools.partial(lives, stage.ahead, "ahead", effort.turn, body_s=BODY_S),
            functools.partial(lives, stage.ahead, "ahead, at once", effort.turn, body_s=0),
            *others.turns(effort.commands),
        ]
        samples = interleaved(effort.rounds, turns)
    for name, column in samples.items():
        result.add({name: column}, beside=beside(name))
    result.refused.update(others.refused)
    return result


def lives(
    engine: Engine, label: str, count: int, *, body_s: float, image: Image | str = "minimal"
) -> Samples:
    """Return the milliseconds of each phase of some containers, one after the other."""
    samples: Samples = {f"{label} {phase}".strip(): [] for phase in PHASES}
    for _ in range(2):  # the engine learns what follows on what
        engine.start(image).close()
    for _ in range(count):
        for column, took in zip(samples.values(), life(engine, image, body_s), strict=True):
            column.append(took)
    return samples


def lives_on_one_processor(stage: Stage, count: int) -> Samples:
    """Return the same for a single processor, where no spare init waits."""
    every = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(every)})
    try:
        return lives(stage.alone, "cold, one processor", count, body_s=0)
    finally:
        os.sched_setaffinity(0, every)


def life(engine: Engine, image: Image | str, body_s: float) -> tuple[float, ...]:
    """Return the milliseconds of create, run, close and of all three; the body does not count."""
    marks = [time.perf_counter()]
    container = engine.start(image)
    marks.append(time.perf_counter())
    time.sleep(body_s)
    body_ms = (time.perf_counter() - marks[-1]) * 1e3
    container.run(["true"])
    marks.append(time.perf_counter())
    container.close()
    marks.append(time.perf_counter())
    create, run, close = ((end - begin) * 1e3 for begin, end in itertools.pairwise(marks))
    run -= body_ms
    return create, run, close, create + run + close


def beside(name: str) -> str:
    """Return the floor's figure for the same phase."""
    for phase in PHASES[:-1]:
        if name.endswith(f" {phase}"):
            return f"floor {phase}"
    return "floor"
