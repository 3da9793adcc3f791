"""Temporary folders for trees that were unpacked: removed without following what is in them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pytest_rootfs.store.trees import remove_tree


@contextmanager
def temporary_folder(parent: Path | str | None = None, *, prefix: str = "tmp") -> Iterator[Path]:
    """Give a folder that is removed with all in it.

    tempfile.TemporaryDirectory changes the mode of what it may not remove, and before Python 3.12
    it follows symbolic links at that: out of an unpacked tree to files of the host.
    """
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        yield folder
    finally:
        remove_tree(folder)
