"""Remove whole trees by their paths."""

from __future__ import annotations

import os
from pathlib import Path

from pytest_rootfs.kernel.trees import remove_tree_at


def remove_tree(path: Path) -> None:
    """Remove `path` and everything below it; nothing happens when it is gone already."""
    parent_fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        remove_tree_at(parent_fd, os.fsencode(path.name))
    finally:
        os.close(parent_fd)
