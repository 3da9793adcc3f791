"""Sessions whose processes are killed at random moments go on, and leave nothing when they end."""

from __future__ import annotations

import os
import subprocess
import sys

import kill_storm
import pytest
from features import needs

KILLS = 24  # two sessions: one is killed, one interrupted


@pytest.mark.slow
@needs("own cgroups")
def test_nothing_is_left_of_a_storm() -> None:
    seed = int.from_bytes(os.urandom(2), "big")
    # a process of its own, as orphans become its children
    storm = [sys.executable, kill_storm.__file__, f"--kills={KILLS}", f"--seed={seed}"]

    done = subprocess.run(storm, capture_output=True, text=True, check=False, timeout=240)

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{KILLS} kills, 0 problems" in done.stdout
