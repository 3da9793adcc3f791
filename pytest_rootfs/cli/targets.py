"""Where an archive is written: a file, which is replaced as a whole, or a stream.

Only a regular file is ever replaced. Standard output, a pipe or a device is written into: a new
file in its place would break it for everybody who uses it.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pytest_rootfs.cli.verbs import NotFound, UsageError
from pytest_rootfs.errors import ImageError, RootfsError

STDOUT = "-"
_CHUNK_BYTES = 1 << 20
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_target(file: str, *, may_be_folder: bool = False) -> None:
    """Refuse what no archive can be written to, before any work is done."""
    if file == STDOUT:
        if sys.stdout.isatty():
            raise UsageError(
                "an archive is not for a terminal: give a FILE, or redirect the output"
            )
        return
    folder = Path(file).parent
    if not folder.is_dir():
        raise NotFound(f"there is no folder {folder}", hint=f"make it first: mkdir -p {folder}")
    if not file or (Path(file).is_dir() and not may_be_folder):
        raise RootfsError(f"cannot write to {file!r}: it is a folder", hint="give a file name")


@contextmanager
def written(file: str) -> Iterator[Path]:
    """Give a temporary name for an archive, which goes to its place at the end.

    The name is beside a regular file, whole or not at all; a symbolic link stays, and leads to it.
    """
    place = Path(os.path.realpath(file))
    is_stream = file == STDOUT or (place.exists() and not stat.S_ISREG(place.stat().st_mode))
    try:
        folder = tempfile.mkdtemp(prefix=".pytest-rootfs-", dir=None if is_stream else place.parent)
    except OSError as error:
        raise RootfsError(
            f"cannot write {file}: {error.strerror}",
            hint=f"look at its folder: ls -ld {place.parent}",
        ) from error
    target = Path(folder, "archive")
    try:
        yield target
        if is_stream:
            _pour(target, file)
        else:
            target.chmod(0o666 & ~_umask())
            target.replace(place)
    except (OSError, ImageError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if isinstance(cause, OSError) and cause.errno in _NO_ROOM:
            raise RootfsError(
                f"cannot write {file}: {cause.strerror}", hint="give a FILE where there is room"
            ) from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _pour(archive: Path, file: str) -> None:
    with archive.open("rb") as source:
        if file == STDOUT:
            shutil.copyfileobj(source, sys.stdout.buffer, _CHUNK_BYTES)
            sys.stdout.buffer.flush()
            return
        with open(file, "wb") as stream:
            shutil.copyfileobj(source, stream, _CHUNK_BYTES)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
