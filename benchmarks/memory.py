"""What memory pytest, our two processes and one container take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.figures import Result, Samples, interleaved
from benchmarks.processes import NOT_OURS
from benchmarks.sessions import WITHOUT_US, run_session
from benchmarks.stage import Stage

ABOUT = "resident memory, and private: what would be free if the process ended"
PLAIN = """
import json, os, sys
sys.path.insert(0, {path!r})
from benchmarks.processes import children_of, may_look, memory_of

def note(**pids):
    with open("notes.json", "w") as file:
        json.dump({{name: memory_of(pid) for name, pid in pids.items() if may_look(pid)}}, file)

def test_nothing():
    note(pytest=os.getpid())
"""
CONTAINER = (
    PLAIN
    + """
def test_container(container):
    container.run(["true"])
    (warden,) = children_of(os.getpid())
    spawner = children_of(warden)[0]
    nursery = children_of(spawner)[0]
    ours = dict(warden=warden, spawner=spawner, nursery=nursery, container=container.pid)
    note(pytest=os.getpid(), **ours)
"""
)


def measure(stage: Stage) -> Result:
    """Measure three sessions: without the plugin, with it unused, with a container."""
    result = Result()
    stage.layers("minimal")  # built before the first turn

    def turn() -> Samples:
        return {
            **noted(stage, "without the plugin", PLAIN, *WITHOUT_US),
            **noted(stage, "plugin unused", PLAIN),
            **noted(stage, "after a container", CONTAINER, f"--rootfs-store={stage.store}"),
        }

    samples = interleaved(stage.effort.rounds, [turn])
    result.add(samples, unit="MB")
    for name in ("warden", "spawner", "nursery", "container"):
        if f"{name}: private" not in samples:
            result.refused[name] = NOT_OURS
    return result


def noted(stage: Stage, label: str, tests: str, *options: str) -> Samples:
    """Return the memory of the processes of a session."""
    folder = stage.folder / "memory"
    run_session(folder, tests.format(path=str(Path(__file__).parents[1])), *options)
    notes: dict[str, Any] = json.loads((folder / "notes.json").read_text())  # Any: JSON
    samples: Samples = {}
    for name, (resident, _, private) in notes.items():
        shown = f"{name}, {label}" if name == "pytest" else name
        samples[f"{shown}: resident"] = [resident]
        samples[f"{shown}: private"] = [private]
    return samples
