"""Read named files out of a foreign folder or tar archive that holds an image.

Nothing outside of it is reached: a folder is walked without following links, and only regular files
are opened; links in an archive are resolved among its own names, as old `docker save` wrote them.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol, final

from pytest_rootfs.errors import ArchiveRejected, ImageNotFound
from pytest_rootfs.store.compression import decompressed, kind_of
from pytest_rootfs.store.documents import JSON_BYTES_MAX
from pytest_rootfs.store.entries import normalised
from pytest_rootfs.store.folders import Folders
from pytest_rootfs.store.reading import Readable
from pytest_rootfs.store.tar_reader import read_entries

_LINKS_MAX = 8
_FILES_MAX = 100_000
_FILE_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class File(Readable, Protocol):
    """An open file of a bundle; close it."""

    def close(self) -> None:
        """Let it go."""


class Bundle(Protocol):
    """Files by their names."""

    def has(self, name: str) -> bool:
        """Tell whether there is a file of this name."""

    def open(self, name: str) -> File:
        """Open a file; raises FileNotFoundError, or ArchiveRejected for what is no plain file."""


@final
class FolderBundle:
    """The files below a folder."""

    def __init__(self, path: Path, folder_fd: int) -> None:
        self._path = path
        self._folder_fd = folder_fd

    def has(self, name: str) -> bool:
        """Tell whether there is anything of this name."""
        return os.path.lexists(self._path / name)

    def open(self, name: str) -> BinaryIO:
        """Open a regular file; links are refused at every step."""
        folder, _, base = name.rpartition("/")
        folders = Folders(self._folder_fd)
        try:
            fd = os.open(base, _FILE_FLAGS, dir_fd=folders.open(os.fsencode(folder or ".")))
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
                raise self._refusal(name) from error
            error.filename = name
            raise
        finally:
            folders.close()
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise self._refusal(name)
        return os.fdopen(fd, "rb")

    def _refusal(self, name: str) -> ArchiveRejected:
        return ArchiveRejected(f"{self._path / name} is refused: it is not a regular file")


@final
class TarBundle:
    """The files of an open tar archive, which is read once to find them."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._places: dict[bytes, tuple[int, int]] = {}
        self._links: dict[bytes, bytes] = {}
        for entry, _ in read_entries(file):
            if len(self._places) + len(self._links) > _FILES_MAX:
                raise ArchiveRejected(f"{path} is refused: it has more than {_FILES_MAX} files")
            if entry.kind == "file":
                self._places[entry.name] = (file.tell(), entry.size)
            elif entry.kind == "hardlink":
                self._links[entry.name] = entry.linkname
            elif entry.kind == "symlink":
                folder = entry.name.rpartition(b"/")[0]
                self._links[entry.name] = os.path.normpath(os.path.join(folder, entry.linkname))

    def has(self, name: str) -> bool:
        """Tell whether there is a file, or a link, of this name."""
        key = normalised(os.fsencode(name))
        return key in self._places or key in self._links

    def open(self, name: str) -> Slice:
        """Open a file for reading at its place in the archive."""
        key = normalised(os.fsencode(name))
        for _ in range(_LINKS_MAX):
            if key not in self._links:
                break
            key = self._links[key]
        if key not in self._places:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return Slice(self._file.fileno(), *self._places[key])


@final
class Slice:
    """A part of an open file; several are read independently."""

    def __init__(self, fd: int, offset: int, size: int) -> None:
        self._fd = fd
        self._offset = offset
        self._left = size

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes; none at the end."""
        data = os.pread(self._fd, min(size, self._left), self._offset)
        self._offset += len(data)
        self._left -= len(data)
        return data

    def close(self) -> None:
        """Do nothing: the archive stays open."""


def read_document(bundle: Bundle, name: str, *, limit: int = JSON_BYTES_MAX) -> bytes:
    """Return a small file whole; raises FileNotFoundError, ArchiveRejected beyond `limit`."""
    file = bundle.open(name)
    try:
        parts = []
        size = 0
        while size <= limit and (part := file.read(limit + 1 - size)):
            parts.append(part)
            size += len(part)
    finally:
        file.close()
    if size > limit:
        raise ArchiveRejected(f"{name} is refused: it has more than {limit} bytes")
    return b"".join(parts)


@contextmanager
def opened(path: Path, *, tmp: Path) -> Iterator[Bundle]:
    """Open a folder, or an archive that may be compressed as a whole (unpacked below `tmp`)."""
    try:
        is_folder = stat.S_ISDIR(os.stat(path).st_mode)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EACCES):
            raise
        raise ImageNotFound(
            f"cannot read {path}: {error.strerror}",
            hint="give the path of an image; a relative one starts at the current directory",
        ) from error
    if is_folder:
        try:
            yield FolderBundle(path, fd)
        finally:
            os.close(fd)
        return
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ArchiveRejected(f"{path} is neither a file nor a folder")
        compressed = kind_of(file.read(4))
        file.seek(0)
        if not compressed:
            yield _tar(path, file)
            return
        with _unnamed(tmp) as plain:
            for chunk in decompressed(file, what=str(path)):
                plain.write(chunk)
            plain.seek(0)
            yield _tar(path, plain)


def _tar(path: Path, file: BinaryIO) -> TarBundle:
    try:
        return TarBundle(path, file)
    except ArchiveRejected as error:
        raise ArchiveRejected(
            f"{path} cannot be read as an archive: {error.what}", detail=error.detail
        ) from error


@contextmanager
def _unnamed(folder: Path) -> Iterator[BinaryIO]:
    """Give a file without a name, gone when it is closed, however we end."""
    fd = os.open(folder, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "r+b") as file:
        yield file
