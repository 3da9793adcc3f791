"""What the mounts of the host cost: a new mount namespace begins as a copy of all of them.

They are made in a private mount namespace, by this module run as a program in it, and are gone
with it.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.figures import Result, Samples, interleaved
from benchmarks.phases import lives
from benchmarks.stage import QUICK, Refused, Stage
from pytest_rootfs.kernel import syscalls

ABOUT = "a container's life, made on demand, by the number of mounts added to the host's own"


def measure(stage: Stage) -> Result:
    """Measure with every number of mounts."""
    effort, result = stage.effort, Result()
    stage.layers("minimal")  # built before the first turn
    turns = [functools.partial(lives_among, stage, count) for count in effort.mounts]
    result.add(interleaved(effort.rounds, turns), beside=name_of(effort.mounts[0]))
    return result


def name_of(count: int) -> str:
    """Name a figure."""
    return f"{count} more mounts"


def lives_among(stage: Stage, count: int) -> Samples:
    """Return what `main` measures in a mount namespace of its own."""
    folder = stage.folder / f"mounts-{count}"
    folder.mkdir(exist_ok=True)
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    argv = ["unshare", *user, "--mount", "--propagation=private", sys.executable]
    arguments = [str(count), str(stage.effort.turn), str(folder), str(stage.store)]
    try:
        done = subprocess.run(
            [*argv, "-m", "benchmarks.mounts", *arguments],
            check=True,
            capture_output=True,
            text=True,
        )
    except OSError as error:
        raise Refused(f"unshare: {error.strerror}") from error
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or [f"status {error.returncode}"]
        raise Refused(lines[-1]) from error
    return {name_of(count): json.loads(done.stdout)}


def main(count: int, turn: int, folder: Path, store: Path) -> None:
    """Add mounts to those of this namespace, and print the milliseconds of some lives."""
    for number in range(count):
        place = folder / str(number)
        place.mkdir(exist_ok=True)
        syscalls.mount("none", str(place), "tmpfs", 0, "size=4k")
    with Stage(store, QUICK) as stage:
        print(json.dumps(lives(stage.cold, "", turn, body_s=0)[""]))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
