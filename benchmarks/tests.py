"""What a container costs a test of pytest, and how many tests run at once."""

from __future__ import annotations

import functools
import importlib.util
import statistics

from benchmarks.figures import Result, Samples, interleaved
from benchmarks.phases import BODY_S
from benchmarks.sessions import run_session
from benchmarks.stage import Stage

ABOUT = "a test that runs `true` in a container, beyond a plain test; per test with xdist workers"
MADE_AHEAD = "a test's container, made ahead"
TESTS = """
import time
import pytest

@pytest.mark.parametrize("number", range({count}))
def test_plain(number):
    pass

@pytest.mark.parametrize("number", range({count}))
def test_plain_with_body(number):
    time.sleep({body_s})

@pytest.mark.parametrize("number", range({count}))
def test_at_once(container, number):
    container.run(["true"])

@pytest.mark.parametrize("number", range({count}))
def test_with_body(container, number):
    time.sleep({body_s})
    container.run(["true"])
"""
THROUGHPUT = """
import pytest

@pytest.mark.parametrize("number", range({count}))
def test_it(container, number):
    container.run(["true"])
"""


def measure(stage: Stage) -> Result:
    """Measure tests, and throughput by the number of workers."""
    effort, result = stage.effort, Result()
    stage.layers("minimal")  # built before the first turn
    workers = [0, 1, 2] if importlib.util.find_spec("xdist") else [0]
    if workers == [0]:
        result.refused["workers"] = "pytest-xdist is not installed"
    floor = stage.floor
    if floor is None:
        result.refused["floor"] = stage.floor_refusal
    turns = [
        *([] if floor is None else [functools.partial(floor.measure, effort.turn)]),
        functools.partial(beyond_plain, stage),
        *(functools.partial(per_test, stage, number) for number in workers),
    ]
    for name, column in interleaved(effort.rounds, turns).items():
        if not name.startswith("floor "):
            result.add({name: column}, beside="" if name == "a plain test" else "floor")
    return result


def beyond_plain(stage: Stage) -> Samples:
    """Return the milliseconds of container tests beyond the median plain test."""
    tests = TESTS.format(count=stage.effort.turn, body_s=BODY_S)
    took = run_session(stage.folder / "beyond", tests, f"--rootfs-store={stage.store}")["took"]
    plain, body = (statistics.median(took[name]) for name in ("test_plain", "test_plain_with_body"))
    return {
        "a plain test": took["test_plain"],
        "a test's container, tests at once": [each - plain for each in took["test_at_once"][2:]],
        MADE_AHEAD: [each - body for each in took["test_with_body"][2:]],
    }


def per_test(stage: Stage, workers: int) -> Samples:
    """Return the milliseconds from the first report to the last, divided by the tests between."""
    count = stage.effort.turn * 2
    options = [f"--rootfs-store={stage.store}", *([f"-n{workers}"] if workers else [])]
    seen = run_session(stage.folder / "tests", THROUGHPUT.format(count=count), *options)["seen"]
    skipped = max(1, count // 10)  # the workers have started, and have learned what comes next
    name = f"per test, {workers} worker{'' if workers == 1 else 's'}"
    return {name: [(seen[-1] - seen[skipped - 1]) / (count - skipped)]}
