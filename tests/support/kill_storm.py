"""Kill processes of running pytest sessions at random moments; tell what was left or went wrong.

`python tests/support/kill_storm.py --kills 1000 [--seed N]`: each session runs container tests
without end. Inits, commands, nurseries, spawners and wardens are killed in it, and the tests must
go on. At last pytest itself is killed, or interrupted as by Ctrl-C, and all must be gone within a
second.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from polling import becomes_true
from process_table import children_of, depth_of, descendants_of, is_alive

GONE_S = 1.0
GOES_ON_S = 20.0
MOMENT_S = 0.02
"""Several lives of a container, so that any moment of one may be hit."""

KILLS_A_SESSION = 12
PR_SET_CHILD_SUBREAPER = 36
VICTIMS = ("init", "command", "nursery", "spawner", "warden")
ENDS = (signal.SIGKILL, signal.SIGINT)
CGROUPS = Path("/sys/fs/cgroup")

TESTS = """
import pytest

@pytest.mark.parametrize("number", range(5000))
def test_container(container, number):
    container.run(["true"])
"""
CONFTEST = """
import os

def pytest_runtest_logreport(report):
    if report.when == "call" or not report.passed:
        os.write(int(os.environ["STORM_FD"]), b"p" if report.passed else b"f")
"""


class StormSession:
    """One pytest that runs container tests, as a child whose orphans become ours."""

    def __init__(self, folder: Path, store: Path) -> None:
        (folder / "conftest.py").write_text(CONFTEST)
        (folder / "test_storm.py").write_text(TESTS)
        (folder / "tmp").mkdir(exist_ok=True)
        self._tmp = folder / "tmp"
        self._output = folder / "output.txt"
        self._progress, write_end = os.pipe()
        os.set_blocking(self._progress, False)
        argv = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider"]
        argv += [f"--rootfs-store={store}", "--rootdir=.", "test_storm.py"]
        environment = environment_of_its_own(STORM_FD=str(write_end), TMPDIR=str(self._tmp))
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                argv,
                cwd=folder,
                env=environment,
                pass_fds=[write_end],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        os.close(write_end)
        self.wardens: set[int] = set()

    def passes_another(self) -> bool:
        """Tell whether a test that begins from now on passes."""
        self._passed()
        passed = 0

        def look() -> bool:
            nonlocal passed
            passed += self._passed()
            return passed > 1  # one was under way

        return becomes_true(look, GOES_ON_S)

    def _passed(self) -> int:
        """Return how many tests have passed since the last look."""
        with suppress(BlockingIOError):
            return os.read(self._progress, 1 << 20).count(b"p")
        return 0

    def tree(self) -> dict[str, list[int]]:
        """Return who lives now: wardens, spawners, their nurseries, inits and commands, by name."""
        levels, parents = {}, [self._process.pid]
        for name in ("warden", "spawner", "init", "command"):
            parents = [child for pid in parents for child in children_of(pid) if is_alive(child)]
            if name == "init":
                inits = [pid for pid in parents if depth_of(pid) > depth_of(os.getpid())]
                levels["nursery"] = [pid for pid in parents if pid not in inits]
                parents = inits
            levels[name] = parents
        self.wardens.update(levels["warden"])
        return levels

    def kill_one(self, victim: str) -> list[int]:
        """Kill one process of a kind, if there is one now; return what must be gone with it."""
        candidates = self.tree()[victim]
        if not candidates:
            return []
        pid = random.choice(candidates)
        doomed = [pid, *descendants_of(pid)]
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return doomed

    def end(self, number: signal.Signals) -> list[str]:
        """Kill or interrupt pytest; return what is left, and what its ending lacks."""
        self.tree()
        os.kill(self._process.pid, number)
        if number == signal.SIGINT:
            problems = self._disorderly()
        else:
            self._process.wait()
            problems = []
        os.close(self._progress)
        gone = becomes_true(lambda: not orphans(), GONE_S)
        if not gone:
            problems += [f"left after {number.name}: {described(pid)}" for pid in orphans()]
            kill(orphans())
        return problems

    def _disorderly(self) -> list[str]:
        try:
            status = self._process.wait(GOES_ON_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return ["Ctrl-C: pytest did not end"]
        text = self._output.read_text(errors="replace")
        problems = [] if status == 2 else [f"Ctrl-C: status {status}: {text[-2000:]}"]
        if "KeyboardInterrupt !!!!" not in text or " passed" not in text:
            problems.append(f"Ctrl-C: no orderly end: {text[-2000:]}")
        return problems + [f"Ctrl-C: file left: {path.name}" for path in self._tmp.iterdir()]


def environment_of_its_own(**more: str) -> dict[str, str]:
    """Return our environment without what a pytest of pytest's would take for its own."""
    ours = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    ours.pop("PYTEST_ADDOPTS", None)
    return ours | more


def orphans() -> list[int]:
    """Return all that descends from us and lives; what has ended is reaped."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return [pid for pid in descendants_of(os.getpid()) if is_alive(pid)]


def kill(pids: list[int]) -> None:
    """Kill these processes, of which some may have ended."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def described(pid: int) -> str:
    with suppress(OSError):
        waits = Path(f"/proc/{pid}/wchan").read_text()
        return f"{pid} {Path(f'/proc/{pid}/comm').read_text().strip()} in {waits}"
    return str(pid)


def groups_of(wardens: set[int]) -> list[str]:
    """Return the cgroup folders that these sessions made."""
    ours = tuple(f"-{pid}-" for pid in wardens)
    return [
        str(Path(folder, name))
        for folder, names, _ in os.walk(CGROUPS)
        for name in names
        if name.startswith("pytest-rootfs-") and any(mark in name for mark in ours)
    ]


class TooLong(Exception):
    """The storm is not over in its time."""


def limited_storm(folder: Path, kills: int, seed: int, limit_s: int) -> list[str]:
    """Storm for so long at most; whatever happens, nothing that was started runs on."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def give_up(*_: object) -> None:
        raise TooLong

    signal.signal(signal.SIGALRM, give_up)
    signal.signal(signal.SIGTERM, give_up)
    signal.alarm(limit_s)
    try:
        return storm(folder, kills, seed)
    except TooLong:
        pass
    finally:
        signal.alarm(0)
        kill(children_of(os.getpid()))  # pytest alone: its warden then removes what it has made
        if not becomes_true(lambda: not orphans(), GONE_S):
            kill(orphans())
            becomes_true(lambda: not orphans(), GONE_S)
    # wardens that were killed have left control groups, which another session removes
    ended = f"the storm was ended before its time, or after {limit_s} s"
    return [ended, *swept(folder, set())]


def storm(folder: Path, kills: int, seed: int) -> list[str]:
    """Kill that often, and print how far it is; return every problem as a line."""
    random.seed(seed)
    problems: list[str] = []
    wardens: set[int] = set()
    done = session_number = 0
    while done < kills:
        session = StormSession(folder, folder / "store")
        problems += [] if session.passes_another() else [f"session {session_number} passed nothing"]
        for _ in range(min(KILLS_A_SESSION - 1, kills - done - 1)):
            done += 1
            problems += strike(session, random.choice(VICTIMS))
        done += 1
        time.sleep(random.uniform(0, MOMENT_S))
        problems += session.end(ENDS[session_number % len(ENDS)])
        wardens |= session.wardens
        session_number += 1
        sys.stdout.write(f"{done} kills, {len(problems)} problems\n")
        sys.stdout.flush()
    return problems + swept(folder, wardens)


def strike(session: StormSession, victim: str) -> list[str]:
    """Kill one process at a random moment; return what it leaves, and whether the tests go on."""
    time.sleep(random.uniform(0, MOMENT_S))
    doomed = session.kill_one(victim)
    problems = []
    if not becomes_true(lambda: not any(map(is_alive, doomed)), GONE_S):
        problems += [f"left after {victim}: {described(pid)}" for pid in filter(is_alive, doomed)]
    if not session.passes_another():
        problems.append(f"no test passed after the {victim} was killed")
    return problems


def swept(folder: Path, wardens: set[int]) -> list[str]:
    """Run one more session, which sweeps what killed wardens could not; return what is left."""
    session = StormSession(folder, folder / "store")
    problems = [] if session.passes_another() else ["no test passed after the storm"]
    problems += session.end(signal.SIGINT)
    return problems + [f"cgroup left: {path}" for path in groups_of(wardens | session.wardens)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a storm by hand."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--limit-s", type=int, default=0, help="give up then; 0: never")
    options = parser.parse_args(arguments)
    sys.stdout.write(f"seed {options.seed}\n")
    # a shell ignores it for what it starts in the background, and so would pytest
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="kill-storm-"))
    problems = limited_storm(folder, options.kills, options.seed, options.limit_s)
    shutil.rmtree(folder, ignore_errors=True)  # layers may have files of subordinate ids
    sys.stdout.writelines(f"{problem}\n" for problem in problems)
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
