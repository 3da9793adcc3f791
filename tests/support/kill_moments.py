"""Strike pytest sessions at chosen calls and forks of their processes; tell what was left.

`python kill_moments.py --moments 1000 [--seed N]`: each session runs container tests. One of its
processes is killed at its n-th system call or at a fork, or pytest interrupted as by Ctrl-C. The
tests must go on or end in order, and all must be gone a second later. A seed gives the same moments
again, as far as the processes make the same calls.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from call_stops import LOOP_ENDS, CallStops, Moment
from kill_storm import environment_of_its_own
from places import temporary_folder
from process_table import descendants_of, is_alive

DEPTHS = {"pytest": 0, "warden": 1, "spawner": 2, "init": 3, "command": 4}
NAMES = {depth: name for name, depth in DEPTHS.items()}
GONE_S = 1.0
PATIENCE_S = 60.0
PR_SET_CHILD_SUBREAPER = 36
SURVIVED = ("init", "command", "spawner", "warden")
FORKING = ("init", "spawner", "warden")
STRIKES_A_SESSION = 18
FEW_LIVES, MANY_LIVES = 4, 300
WITHIN_LIVES = 300
"""So many calls of pytest are more than one life of a container: any moment of it may be hit."""

TOLD = re.compile(
    r"pytest_rootfs\.errors\.Container(Died|Error): "
    r"|pytest_rootfs\.errors\.CommandFailed: command `true` was killed by SIGKILL"
)
TESTS = """
import os, pytest

@pytest.mark.parametrize("number", range(int(os.environ["LIVES"])))
def test_life(container, number):
    container.run(["true"])
"""
CONFTEST = f"""
import contextlib, json, os, pytest
from pathlib import Path

@pytest.hookimpl(hookwrapper=True)
def pytest_runtestloop():
    os.write(int(os.environ["READY_FD"]), b"r")
    os.read(int(os.environ["GO_FD"]), 1)
    yield
    with contextlib.suppress(ProcessLookupError):
        os.getpriority(os.PRIO_PGRP, {LOOP_ENDS})

def pytest_runtest_logreport(report):
    if report.failed:
        with Path("failures").open("a") as file:
            file.write(json.dumps([report.longrepr.reprcrash.message, report.longreprtext]))
            file.write(chr(10))
"""


@dataclass(slots=True)
class Outcome:
    """What became of one session."""

    stops: CallStops
    problems: list[str]

    @property
    def wardens(self) -> set[int]:
        """Return the pids of all wardens, whose control groups are named after them."""
        return {pid for pid, depth in self.stops.depths.items() if NAMES.get(depth) == "warden"}

    def calls_of(self, name: str) -> int:
        """Return how many calls the longest process of a kind has made."""
        depths = self.stops.depths
        return max(n for pid, n in self.stops.calls.items() if NAMES.get(depths[pid]) == name)


class Field:
    """A folder with tests, and the store that their sessions share."""

    def __init__(self, folder: Path, gone_s: float) -> None:
        self._folder, self._gone_s = folder, gone_s
        self.store, self._tmp = folder / "store", folder / "tmp"
        self._output, self._failures = folder / "output.txt", folder / "failures"
        self._tmp.mkdir()
        (folder / "conftest.py").write_text(CONFTEST)
        (folder / "test_life.py").write_text(TESTS)

    def live(self, *moments: Moment) -> Outcome:
        """Run the tests, strike at the moments, and look at what is left."""
        self._failures.write_text("")
        process, go_fd = self._start(MANY_LIVES if len(moments) > 1 else FEW_LIVES)
        stops = CallStops(process.pid, moments)
        os.write(go_fd, b"g")
        os.close(go_fd)
        are_gone = stops.follow(PATIENCE_S, self._gone_s)
        process.returncode = stops.status or 0  # it was reaped by the one who followed
        left = [] if are_gone else ended_by_force(stops)
        problems = [*left, *self._slow(stops), *self._disorder(stops), *self._files()]
        return Outcome(stops, [f"{told(stops)}: {problem}" for problem in problems])

    def build(self) -> None:
        """Have the image made, which no later session does."""
        process, go_fd = self._start(FEW_LIVES)
        os.close(go_fd)  # as good as a word
        process.wait(PATIENCE_S)

    def _start(self, lives: int) -> tuple[subprocess.Popen[bytes], int]:
        """Start pytest; it waits before its first test. Return it, and the pipe that lets it go."""
        (ready_r, ready_w), (go_r, go_w) = os.pipe(), os.pipe()
        argv = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider"]
        argv += [f"--rootfs-store={self.store}", "--rootfs-keep=none", "--rootdir=."]
        given = {"READY_FD": str(ready_w), "GO_FD": str(go_r), "LIVES": str(lives)}
        with self._output.open("wb") as output:
            process = subprocess.Popen(
                [*argv, "test_life.py"],
                cwd=self._folder,
                env=environment_of_its_own(TMPDIR=str(self._tmp), **given),
                pass_fds=[ready_w, go_r],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        os.close(ready_w)
        os.close(go_r)
        if not os.read(ready_r, 1):
            raise RuntimeError(self._output.read_text(errors="replace"))
        os.close(ready_r)
        return process, go_w

    def _slow(self, stops: CallStops) -> Iterator[str]:
        """Tell whose tree has outlived it by too long."""
        for strike in stops.strikes:
            is_kill = strike.moment.signal == signal.SIGKILL
            if is_kill and strike.outlived_s > self._gone_s:
                yield f"{named(strike.moment)}: all gone after {strike.outlived_s:.1f} s"

    def _disorder(self, stops: CallStops) -> Iterator[str]:
        """Tell what the end of pytest lacks, and which failure says nothing."""
        text = self._output.read_text(errors="replace")[-3000:]
        for line in self._failures.read_text().splitlines():
            message, report = json.loads(line)
            if not TOLD.match(message):
                yield f"a test failed by {report}"
        last = stops.strikes[-1] if stops.strikes else None
        if stops.status is None:
            yield f"pytest did not end: {text}"
            return
        status = os.waitstatus_to_exitcode(stops.status)
        if last is None or last.moment.depth:
            if status not in (0, 1) or " passed" not in text:
                yield f"status {status}: {text}"
        elif (
            last.moment.signal == signal.SIGINT
            and not last.is_loop_over
            and (status != 2 or "! KeyboardInterrupt !" not in text)
        ):
            yield f"no orderly end, status {status}: {text}"

    def _files(self) -> Iterator[str]:
        for path in self._tmp.iterdir():
            yield f"file left: {path.name}"


def named(moment: Moment) -> str:
    place = "a fork" if moment.is_fork else f"call {moment.number}"
    return f"{moment.signal.name} to {NAMES[moment.depth]} at {place}"


def told(stops: CallStops) -> str:
    return ", ".join(named(strike.moment) for strike in stops.strikes) or "undisturbed"


def ended_by_force(stops: CallStops) -> list[str]:
    """Kill what is left; return a line about each."""
    left = [pid for pid in descendants_of(os.getpid()) if is_alive(pid)]
    lines = [f"left: {described(pid)}" for pid in left]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    stops.follow(PATIENCE_S, 0)
    return lines


def described(pid: int) -> str:
    with suppress(OSError):
        return f"{pid} {Path(f'/proc/{pid}/comm').read_text().strip()}"
    return str(pid)


def left_in_host(wardens: set[int], store: Path) -> Iterator[str]:
    """Tell which control groups, mounts and unfinished files sessions have left."""
    marks = {f"-{pid}-" for pid in wardens}
    for folder, names, _ in os.walk("/sys/fs/cgroup"):
        for name in names:
            if name.startswith("pytest-rootfs-") and any(mark in name for mark in marks):
                yield f"cgroup left: {folder}/{name}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if str(store) in line:
            yield f"mount left: {line}"
    for name in ("tmp", "leases", "trash"):
        yield from (f"file left: {path}" for path in (store / name).iterdir())


def sessions(undisturbed: Outcome, seed: int) -> Iterator[list[Moment]]:
    """Choose moments for session after session; pytest, which none survives, is the last of each.

    In every other one it is the only one, struck anywhere from its first container to its end.
    """
    source = random.Random(seed)
    for index in itertools.count():
        signal_number = (signal.SIGKILL, signal.SIGINT)[index // 2 % 2]
        moments, within = [], undisturbed.calls_of("pytest")
        if index % 2:
            names = source.choices(SURVIVED, k=STRIKES_A_SESSION)
            names.sort(key=DEPTHS.__getitem__)  # a warden makes calls when it begins, then none
            moments = [chosen(source, name, undisturbed.calls_of(name)) for name in names]
            within = WITHIN_LIVES
        moments.append(chosen(source, "pytest", within, signal_number))
        yield moments


def chosen(
    source: random.Random, name: str, calls: int, sent: signal.Signals = signal.SIGKILL
) -> Moment:
    return Moment(depth=DEPTHS[name], number=source.randint(1, calls), signal=sent)


def strike(
    folder: Path,
    number: int,
    seed: int,
    *,
    gone_s: float = GONE_S,
    tell: Callable[[str], object] = lambda _: None,
) -> list[str]:
    """Strike at least that often; return every problem as a line."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    ground = Field(folder, gone_s)
    ground.build()
    undisturbed = ground.live()
    problems = list(undisturbed.problems)
    tell(f"calls: { {name: undisturbed.calls_of(name) for name in DEPTHS} }")
    wardens, struck = set(undisturbed.wardens), Counter[str]()
    for moments in sessions(undisturbed, seed):
        outcome = ground.live(*moments)
        strikes = outcome.stops.strikes
        struck.update(
            f"{each.moment.signal.name} to {NAMES[each.moment.depth]}" for each in strikes
        )
        wardens |= outcome.wardens
        problems += outcome.problems
        missed = [f"missed: {named(each)}" for each in outcome.stops.missed]
        tell("\n".join([f"{struck.total()}: {told(outcome.stops)}", *missed, *outcome.problems]))
        if struck.total() >= number:
            break
    last = ground.live()  # it sweeps what killed wardens and pytests could not
    problems += [*last.problems, *left_in_host(wardens | last.wardens, ground.store)]
    tell(f"struck: {dict(struck)}, {len(problems)} problems")
    return problems


def main(arguments: Sequence[str] | None = None) -> int:
    """Strike by hand."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--moments", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--gone-s", type=float, default=GONE_S)
    options = parser.parse_args(arguments)
    sys.stdout.write(f"seed {options.seed}\n")
    # a shell ignores it for what it starts in the background, and so would pytest
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with temporary_folder(prefix="kill-moments-") as folder:
        problems = strike(folder, options.moments, options.seed, gone_s=options.gone_s, tell=tell)
    sys.stdout.writelines(f"{problem}\n" for problem in problems)
    return bool(problems)


def tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
