"""What the installed plugin costs a suite that uses no container.

A run is one from start to end, where the plugin is installed as pip does it, and where it is not.
To collect, pytest is imported once, and each run is a fork, so that its import does not drown what
tests cost. Processor time, as it varies less than what a clock shows. Other plugins are off.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.figures import Result, Samples, interleaved
from benchmarks.installed import Installed
from benchmarks.sessions import WITHOUT_US, environment, others_off
from benchmarks.stage import Refused, Stage

ABOUT = "pytest with the plugin installed and unused, and without it; processor time"
SUITES = {
    "collecting 10000 tests": """
import pytest

@pytest.mark.parametrize("number", range(10000))
def test_it(number): pass
""",
    "collecting 10000 marked tests": """
import pytest

@pytest.mark.container(memory="64M")
@pytest.mark.parametrize("number", range(10000))
def test_it(number): pass
""",
}
CONFTEST = """
def pytest_configure(config):
    config.addinivalue_line("markers", "container: as ours, for the run without us")
"""
RUNS_A_TURN = 12


def measure(stage: Stage) -> Result:
    """Measure all suites, with and without the plugin."""
    result = Result()
    folder = stage.folder / "start"
    folder.mkdir()
    (folder / "conftest.py").write_text(CONFTEST)
    for name, text in SUITES.items():
        path_of(folder, name).write_text(text)
    turns = [lambda: turn(folder)]
    try:
        installed = Installed(stage.folder / "installed")
        turns.insert(0, lambda: installed.measure(RUNS_A_TURN))
    except Refused as refused:
        result.refused["a run of pytest"] = str(refused)
    samples = interleaved(stage.effort.rounds, turns)
    for name, column in samples.items():
        result.add({name: column}, beside=f"{name.removesuffix(', with')}, without")
    result.add(differences(samples))
    return result


def path_of(folder: Path, suite: str) -> Path:
    """Return the test file of a suite."""
    return folder / f"test_{suite.replace(' ', '_')}.py"


def turn(folder: Path) -> Samples:
    """Have all suites run by a process that has imported pytest."""
    argv = [sys.executable, "-m", "benchmarks.start", str(folder)]
    top = Path(__file__).parents[1]
    done = subprocess.run(
        argv, check=False, capture_output=True, text=True, cwd=top, env=environment()
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise Refused(lines[-1])
    samples: Samples = json.loads(done.stdout)
    return samples


def differences(samples: Samples) -> Samples:
    """Return what the plugin adds, pair by pair."""
    what = [name.removesuffix(", with") for name in samples if name.endswith(", with")]
    return {
        f"{each}: the plugin": [
            more - less
            for more, less in zip(
                samples[f"{each}, with"], samples[f"{each}, without"], strict=True
            )
        ]
        for each in what
    }


def main(folder: Path) -> None:
    """Run every suite with the plugin and without, in turn, and print the milliseconds."""
    os.chdir(folder)
    samples: Samples = {}
    for suite in SUITES:
        for label, options in (("with", ()), ("without", WITHOUT_US)):
            arguments = [*others_off(), "-q", "--collect-only", *options]
            took = forked([*arguments, path_of(folder, suite).name])
            samples.setdefault(f"{suite}, {label}", []).append(took)
    print(json.dumps(samples))


def forked(arguments: list[str]) -> float:
    """Return the processor time of a run of pytest in a fork, in milliseconds."""
    pid = os.fork()
    if pid == 0:
        null_fd = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null_fd, fd)
        os._exit(pytest.main(["-p", "no:cacheprovider", *arguments]))
    _, status, usage = os.wait4(pid, 0)
    if status:
        sys.exit(f"pytest {' '.join(arguments)}: wait status {status:#x}")
    return (usage.ru_utime + usage.ru_stime) * 1e3


if __name__ == "__main__":
    main(Path(sys.argv[1]))
