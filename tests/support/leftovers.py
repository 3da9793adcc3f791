"""What is left of a session that is over: its processes and its control groups."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from polling import becomes_true
from process_table import is_alive

CGROUPS = Path("/sys/fs/cgroup")
GONE_S = 5.0


def session_groups(warden: int) -> list[Path]:
    """Return the control groups that are named after a warden."""
    walked = (Path(folder, name) for folder, names, _ in os.walk(CGROUPS) for name in names)
    return [path for path in walked if fnmatch(path.name, f"pytest-rootfs-*-{warden}-*")]


def left_of(warden: int, tree: Sequence[int]) -> list[object]:
    """Return the processes of a tree and the control groups that are left, after a while."""

    def look() -> list[object]:
        return [*filter(is_alive, tree), *session_groups(warden)]

    becomes_true(lambda: not look(), GONE_S)
    return look()
