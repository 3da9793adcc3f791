"""What a long session costs: whether the last tests take longer than the first, or more memory."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.figures import Result, Samples, interleaved
from benchmarks.floor import cgroup_folders
from benchmarks.phases import lives
from benchmarks.processes import NOT_OURS, Memory
from benchmarks.sessions import run_session
from benchmarks.stage import Stage
from pytest_rootfs.engine import Engine

ABOUT = "a long session of container tests: its first tenth and its last, and what it leaves"
TESTS = """
import json, os, sys
import pytest

sys.path.insert(0, {path!r})
from benchmarks.many import lives_beside_new
from benchmarks.processes import children_of, may_look, memory_of

notes = []

@pytest.fixture
def plain():
    yield

def note():
    warden = children_of(os.getpid())[:1]
    spawner = [child for pid in warden for child in children_of(pid)[:1]]
    pids = [os.getpid(), *warden, *spawner]
    notes.append([[pid, *(memory_of(pid) if may_look(pid) else ())] for pid in pids])
    with open("notes.json", "w") as file:
        json.dump(notes, file)

@pytest.mark.parametrize("number", range({count}))
def test_it({fixture}, number):
    {act}
    if number + 1 in ({tenth}, {count}):
        note()

{at_end}
"""
AT_END = """
from pytest_rootfs.plugin import SESSION

def test_beside_new_engine(request):
    lives = lives_beside_new(request.config.stash[SESSION].engine, {turns}, {turn})
    with open("beside.json", "w") as file:
        json.dump(lives, file)
"""
NAMES = ("pytest", "warden", "spawner")
NEW = "a container of a new engine"


def measure(stage: Stage) -> Result:
    """Run a long session with containers, and one without for comparison."""
    result, count = Result(), stage.effort.many
    tenth = max(2, count // 10)
    stage.layers("minimal")  # built before the session
    _, plain = run(stage, tenth, "plain", "pass")
    at_end = AT_END.format(turns=10, turn=max(2, stage.effort.turn // 5))
    took, notes = run(stage, tenth, "container", 'container.run(["true"])', at_end)
    first = f"first {tenth} tests"
    result.add({first: took[1:tenth], f"last {tenth} tests": took[-tenth:]}, beside=first)
    beside_new = json.loads((stage.folder / "many-container/beside.json").read_text())
    after = f"a container after {count} tests"
    result.add({NEW: beside_new["new"], after: beside_new["worn"]}, beside=NEW)
    for name, early, late in zip(NAMES, *notes, strict=True):
        if len(early) == 1:
            result.refused[name] = NOT_OURS
            continue
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


def run(
    stage: Stage, tenth: int, fixture: str, act: str, at_end: str = ""
) -> tuple[list[float], Any]:  # Any: JSON
    """Run a session; return how long each test took, and the memory at a tenth and at its end."""
    count, folder = stage.effort.many, stage.folder / f"many-{fixture}"
    tests = TESTS.format(
        path=str(Path(__file__).parents[1]),
        count=count,
        tenth=tenth,
        fixture=fixture,
        act=act,
        at_end=at_end,
    )
    took = run_session(folder, tests, f"--rootfs-store={stage.store}")["took"]["test_it"]
    return took, json.loads((folder / "notes.json").read_text())


def lives_beside_new(worn: Engine, turns: int, turn: int) -> Samples:
    """Return the lives of containers of an engine and of a new one, in turn.

    At the end of the session, where what else disturbs the machine disturbs both alike.
    """
    settings = replace(worn.settings, resolve_hook=None)
    with contextlib.closing(Engine(settings, warn=print)) as new:

        def lives_of(engine: Engine, label: str) -> Samples:
            return {label: lives(engine, label, turn, body_s=0)[label]}

        lives(new, "", 2, body_s=0)
        return interleaved(turns, [partial(lives_of, new, "new"), partial(lives_of, worn, "worn")])


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
