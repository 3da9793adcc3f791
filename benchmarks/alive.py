"""What containers cost that are alive at once."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from benchmarks.figures import Result, Samples
from benchmarks.processes import memory_of
from benchmarks.stage import Stage
from pytest_rootfs.runtime.container import Container

ABOUT = "create, run and close among many containers alive, and the memory of each"
RUNS = 200


def measure(stage: Stage) -> Result:
    """Measure while the number of containers alive grows; their number is in each name."""
    result = Result()
    first = stage.effort.alive[0]
    alive: list[Container] = []
    with contextlib.ExitStack() as stack:
        for target in stage.effort.alive:
            created = [timed(lambda: alive.append(start(stage))) for _ in range(len(alive), target)]
            for container in alive[target - len(created) :]:
                stack.callback(container.close)
            recent = created[-RUNS:] if target > 1 else created[1:]  # the first starts the engine
            if recent:
                result.add({f"create, {target} alive": recent})
            runs = [timed(lambda: alive[each % target].run(["true"])) for each in range(RUNS)]  # noqa: B023  called at once
            result.add({f"run, {target} alive": runs}, beside=f"run, {first} alive")
        result.add(memory_figures(alive), unit="MB")
        result.add({f"close, {len(alive)} alive": [timed(each.close) for each in alive[-RUNS:]]})
    return result


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
