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

MOMENTS = 20  # two sessions: pytest alone is struck in one, all others in the other


@pytest.mark.slow
@needs("root", "own cgroups")  # nobody else may trace the spawner
def test_nothing_is_left_of_any_moment() -> None:
    seed = int.from_bytes(os.urandom(2), "big")
    # a process of its own, as orphans become its children
    program = [sys.executable, kill_moments.__file__, f"--moments={MOMENTS}", f"--seed={seed}"]

    done = subprocess.run(
        [*program, "--gone-s=5"], capture_output=True, text=True, check=False, timeout=240
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 problems" in done.stdout


def test_call_that_is_struck_does_not_happen() -> None:
    program = "import os; os.read(0, 1); os.getppid(); os.write(1, b'written')"
    reader, writer = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=writer
    ) as process:
        os.close(writer)
        stops = CallStops(process.pid, [Moment(depth=0, number=3)])
        assert process.stdin is not None
        process.stdin.close()
        are_gone = stops.follow(20, 1)
        process.returncode = stops.status

    with open(reader, "rb") as output:
        assert output.read() == b""
    assert are_gone and stops.status == signal.SIGKILL
    assert [strike.victim for strike in stops.strikes] == [process.pid]
