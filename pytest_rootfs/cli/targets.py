"""The file that a verb writes: a new one that appears whole, or standard output."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pytest_rootfs.cli.verbs import NotFound, UsageError

STDOUT = "-"


def check_target(file: str) -> None:
    """Refuse a file in a folder that does not exist, and an archive on a terminal."""
    if file == STDOUT:
        if sys.stdout.isatty():
            raise UsageError("an archive is not for a terminal: give a FILE, or redirect it")
    elif not Path(file).absolute().parent.is_dir():
        folder = Path(file).parent
        raise NotFound(f"there is no folder {folder}", hint=f"make it first: mkdir -p {folder}")


@contextmanager
def written(file: str) -> Iterator[Path]:
    """Give a temporary name beside a file, which becomes the file, or our output, at the end."""
    is_stdout = file == STDOUT
    folder = tempfile.mkdtemp(
        prefix=".pytest-rootfs-", dir=None if is_stdout else Path(file).parent
    )
    target = Path(folder, "archive")
    try:
        yield target
        if is_stdout:
            with target.open("rb") as source:
                shutil.copyfileobj(source, sys.stdout.buffer, 1 << 20)
            sys.stdout.buffer.flush()
        else:
            target.chmod(0o666 & ~_umask())
            target.replace(file)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
