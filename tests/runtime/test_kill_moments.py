"""Sessions that are struck at any system call of a process go on, or end, and leave nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import kill_moments
import pytest
from call_stops import CallStops, Moment
from features import needs
from polling import wait_until
from process_table import stat_fields

MOMENTS = 20  # two sessions: pytest alone is struck in one, all others in the other


@pytest.mark.slow
@needs("root", "own cgroups", "call stops")  # nobody else may trace the spawner
def test_nothing_is_left_of_any_moment() -> None:
    seed = int.from_bytes(os.urandom(2), "big")
    # a process of its own, as orphans become its children
    program = [sys.executable, kill_moments.__file__, f"--moments={MOMENTS}", f"--seed={seed}"]

    done = subprocess.run(
        [*program, "--gone-s=5"], capture_output=True, text=True, check=False, timeout=240
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 problems" in done.stdout


def struck(program: str, moment: Moment) -> tuple[CallStops, bytes]:
    """Run a program, whose first counted call is a read of its input; return what it wrote."""
    reader, writer = os.pipe()
    waiting = "import os; os.write(1, b'.'); os.read(0, 1)"
    with subprocess.Popen(
        [sys.executable, "-c", f"{waiting}; {program}"], stdin=subprocess.PIPE, stdout=writer
    ) as process:
        os.close(writer)
        assert os.read(reader, 1) == b"."
        stops = CallStops(process.pid, [moment])
        wait_until(lambda: stat_fields(process.pid)[0] == "t")  # traced, and stopped
        assert process.stdin is not None
        process.stdin.close()
        are_gone = stops.follow(20, 1)
        process.returncode = stops.status
    with open(reader, "rb") as output:
        written = output.read()
    assert are_gone and stops.status == signal.SIGKILL
    assert [strike.victim for strike in stops.strikes] == [process.pid]
    return stops, written


@needs("call stops")
def test_call_that_is_struck_does_not_happen() -> None:
    program = "os.getppid(); os.write(1, b'written')"

    _, written = struck(program, Moment(depth=0, number=3))

    assert written == b""


@needs("call stops")
def test_fork_that_is_struck_leaves_a_child() -> None:
    program = "os.write(1, b'parent' if os.fork() else b'child')"

    stops, written = struck(program, Moment(depth=0, number=1, is_fork=True))

    assert written == b"child"
    assert sorted(stops.depths.values()) == [0, 1]
