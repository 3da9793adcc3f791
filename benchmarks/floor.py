"""The floor: a C program that makes the system calls of a container test and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures import Samples
from benchmarks.processes import children_of
from pytest_rootfs.runtime.ids import find_ids

SOURCE = Path(__file__).with_name("floor.c")
PARTS = {
    "floor create": ("cgroup_make", "trees", "clone", "maps", "init"),
    "floor run": ("run",),
    "floor close": ("close", "cgroup_remove"),
    "floor": ("total",),
}
"""Which phases of the program are what a test sees of a container's life."""


class FloorRefused(Exception):
    """The program cannot be compiled, or does not run here."""


class Floor:
    """The C program, on the layers and in the cgroup folders that our containers use."""

    def __init__(self, folder: Path, lowers: Sequence[Path], command: str = "/bin/true") -> None:
        program = folder / "floor"
        if not program.exists():
            _run("cc", "-O2", "-o", program, SOURCE)
        self._argv: list[str | Path] = [program, "-s", *_id_options(), "-p", command]
        for path, is_v2 in cgroup_parents().items():
            self._argv += ["-2" if is_v2 else "-1", path]
        self._lowers = lowers

    def measure(self, rounds: int, body_s: float = 0) -> Samples:
        """Return the milliseconds of every phase; the body does not count. Raises FloorRefused."""
        options = ["-n", str(rounds), "-t", str(round(body_s * 1e6))]
        phases = json.loads(_run(*self._argv, *options, *self._lowers))["phases_us"]
        columns = {
            name: [phases[part]["samples"] for part in parts] for name, parts in PARTS.items()
        }
        return {
            name: [sum(parts) / 1e3 for parts in zip(*column, strict=True)]
            for name, column in columns.items()
        }


def cgroup_parents() -> dict[str, bool]:
    """Return the cgroup folders in which our session lives now; true for v2."""
    folders = [folder for pid in children_of(os.getpid()) for folder in cgroup_folders(pid)]
    return {str(each.parent): (each / "cgroup.controllers").exists() for each in folders}


def cgroup_folders(warden: int) -> list[Path]:
    """Return the cgroup folders of a session, in every hierarchy."""
    # os.walk passes over what another session removes meanwhile
    every = (Path(top, name) for top, names, _ in os.walk("/sys/fs/cgroup") for name in names)
    return [folder for folder in every if folder.match(f"pytest-rootfs-*-{warden}-*")]


def _id_options() -> list[str]:
    lines = find_ids().uid_map
    if os.getuid() == 0:
        _, outside, count = lines[0]
    elif len(lines) > 1:
        _, outside, count = lines[1]
    else:
        return []
    return ["-b", str(outside), "-c", str(count)]


def _run(*argv: str | Path) -> str:
    try:
        done = subprocess.run(argv, check=True, capture_output=True, text=True)
    except OSError as error:
        raise FloorRefused(f"{argv[0]}: {error.strerror}") from error
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or [f"status {error.returncode}"]
        raise FloorRefused(lines[-1]) from error
    return done.stdout
