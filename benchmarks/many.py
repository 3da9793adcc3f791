"""What a long session costs: whether the last tests take longer than the first, or more memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.figures import Result
from benchmarks.floor import cgroup_folders
from benchmarks.processes import Memory
from benchmarks.sessions import run_session
from benchmarks.stage import Stage

ABOUT = "a long session of container tests: its first tenth and its last, and what it leaves"
TESTS = """
import json, os, sys
import pytest

sys.path.insert(0, {path!r})
from benchmarks.processes import children_of, memory_of

notes = []

@pytest.fixture
def plain():
    yield

def note():
    warden = children_of(os.getpid())[:1]
    spawner = [child for pid in warden for child in children_of(pid)[:1]]
    notes.append([[pid, *memory_of(pid)] for pid in [os.getpid(), *warden, *spawner]])
    with open("notes.json", "w") as file:
        json.dump(notes, file)

@pytest.mark.parametrize("number", range({count}))
def test_it({fixture}, number):
    {act}
    if number + 1 in ({tenth}, {count}):
        note()
"""
NAMES = ("pytest", "warden", "spawner")


def measure(stage: Stage) -> Result:
    """Run a long session with containers, and one without for comparison."""
    result, count = Result(), stage.effort.many
    tenth = max(2, count // 10)
    stage.layers("minimal")  # built before the session
    _, plain = run(stage, tenth, "plain", "pass")
    took, notes = run(stage, tenth, "container", 'container.run(["true"])')
    first = f"first {tenth} tests"
    result.add({first: took[1:tenth], f"last {tenth} tests": took[-tenth:]}, beside=first)
    for name, early, late in zip(NAMES, *notes, strict=True):
        before, after = (f"{name}, private, after {number}" for number in (tenth, count))
        samples = {before: [private(early)], after: [private(late)]}
        result.add(samples, unit="MB", beside=before)
    between = count - tenth
    beside = "pytest's growth a plain test"
    growths = {
        beside: growth(plain, between),
        "pytest's growth a container test": growth(notes, between),
    }
    result.add(growths, unit="kB", beside=beside)
    pids = [int(row[0]) for row in notes[-1]]
    result.add({"left behind": [float(len(left_of(pids)))]}, unit="")
    return result


def run(stage: Stage, tenth: int, fixture: str, act: str) -> tuple[list[float], Any]:  # Any: JSON
    """Run a session; return how long each test took, and the memory at a tenth and at its end."""
    count, folder = stage.effort.many, stage.folder / f"many-{fixture}"
    tests = TESTS.format(
        path=str(Path(__file__).parents[1]),
        count=count,
        tenth=tenth,
        fixture=fixture,
        act=act,
    )
    took = run_session(folder, tests, f"--rootfs-store={stage.store}")["took"]["test_it"]
    return took, json.loads((folder / "notes.json").read_text())


def private(row: list[float]) -> float:
    """Return the private memory in what a session noted of a process, in MB."""
    return Memory(*row[1:]).private


def growth(notes: Any, tests: int) -> list[float]:  # Any: JSON
    """Return by how much the private memory of pytest grew with each test, in kB."""
    early, late = (private(each[0]) for each in notes)
    return [(late - early) * 1024 / tests]


def left_of(pids: list[int]) -> list[str]:
    """Return the processes and control groups that the session should have taken with it."""
    processes = [f"/proc/{pid}" for pid in pids if Path(f"/proc/{pid}").exists()]
    return processes + [str(each) for pid in pids for each in cgroup_folders(pid)]
