"""Sessions whose processes are killed at random moments go on, and leave nothing when they end."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import kill_storm
import pytest
from features import needs

KILLS = 24  # two sessions: one is killed, one interrupted


def storm(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a storm in a process of its own, as orphans become its children."""
    argv = [sys.executable, kill_storm.__file__, *options]
    return subprocess.run(
        argv, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


def marked(word: str) -> list[str]:
    """Return the processes that have a word in their environment."""
    found = []
    for place in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if word in place.read_text(errors="replace"):
                found.append(place.parent.name)
    return found


@pytest.mark.slow
@needs("own cgroups")
def test_nothing_is_left_of_a_storm() -> None:
    seed = int.from_bytes(os.urandom(2), "big")

    done = storm(f"--kills={KILLS}", f"--seed={seed}", "--limit-s=240")

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{KILLS} kills, 0 problems" in done.stdout


@pytest.mark.slow
def test_storm_that_takes_too_long_leaves_nothing(tmp_path: Path) -> None:
    done = storm("--kills=100000", "--limit-s=2", STORM_MARK=str(tmp_path), TMPDIR=str(tmp_path))

    assert done.returncode == 1
    assert "the storm was ended" in done.stdout
    assert marked(str(tmp_path)) == []
