"""What containers cost that are alive at once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from functools import partial

from benchmarks.figures import Result, Samples
from benchmarks.processes import NOT_OURS, memory_of
from benchmarks.stage import Stage
from pytest_rootfs.runtime.container import Container

ABOUT = "create, run and close among many containers alive, and the memory of each"
RUNS = 200
ASKED = 50
"""How many answer in turn; each once before it counts, as a first command costs more."""


def measure(stage: Stage) -> Result:
    """Measure while the number of containers alive grows, and once more when one is left."""
    result = Result()
    alive: list[Container] = []
    one = "run, 1 alive"
    with contextlib.ExitStack() as stack:
        for target in stage.effort.alive:
            created = [timed(lambda: alive.append(start(stage))) for _ in range(len(alive), target)]
            for container in alive[-len(created) :]:
                stack.callback(container.close)
            if target > 1:  # the first one also starts the engine
                result.add({f"create, {target} alive": created[-RUNS:]})
            result.add({f"run, {target} alive": answers(alive[:1])}, beside=one)
            if target > 1:
                result.add({f"run, {target} alive, in turn": answers(alive)}, beside=one)
        try:
            result.add(memory_figures(alive), unit="MB")
        except PermissionError:
            result.refused["memory of each"] = NOT_OURS
        closed = [timed(each.close) for each in alive[1:]]
        result.add({f"close, {len(alive)} alive": closed[:RUNS]})
        result.add({"run, 1 alive, at the end": answers(alive[:1])}, beside=one)
    return result


def answers(alive: list[Container]) -> list[float]:
    """Return how long some of the containers, in turn, take to run a command."""
    asked = alive[:: max(1, len(alive) // ASKED)]
    for container in asked:
        container.run(["true"])
    return [timed(partial(asked[each % len(asked)].run, ["true"])) for each in range(RUNS)]


def start(stage: Stage) -> Container:
    """Start one more container."""
    return stage.cold.start("minimal")


def timed(act: Callable[[], object]) -> float:
    """Return the milliseconds of a call."""
    began = time.perf_counter()
    act()
    return (time.perf_counter() - began) * 1e3


def memory_figures(alive: list[Container]) -> Samples:
    """Return the memory of every init."""
    found = [memory_of(container.pid) for container in alive]
    return {
        "private memory of each": [each.private for each in found],
        "proportional memory of each": [each.proportional for each in found],
        "the largest private memory": [max(each.private for each in found)],
    }
