"""Look at a single file of a layer or of a writable folder: what it is, and what is in it.

By its name in an open folder; nothing is followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal  # Any: JSON values

from pytest_rootfs.errors import ArchiveRejected
from pytest_rootfs.store import attributes
from pytest_rootfs.store.entries import shown
from pytest_rootfs.store.folders import FLAGS

FileType = Literal["file", "dir", "symlink", "char", "block", "fifo", "socket"]

CHUNK_BYTES = 1 << 18
WHITEOUT_DEVICE = os.makedev(0, 0)

_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_TYPES: dict[int, FileType] = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FileState:
    """A file as it was or is. `size` counts regular files only; `target` is of symbolic links."""

    type: FileType
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    target: str | None

    def as_json(self) -> dict[str, Any]:
        """Return the state as JSON types, members as named here."""
        return {name: getattr(self, name) for name in FileState.__dataclass_fields__}


@dataclass(frozen=True, slots=True, kw_only=True)
class FileInfo:
    """What the kernel tells of a file. `private` are overlayfs' own attributes, without prefix."""

    type: FileType
    stat: os.stat_result
    target: bytes = b""
    xattrs: Mapping[bytes, bytes] = field(default_factory=dict)
    private: Mapping[bytes, bytes] = field(default_factory=dict)

    @property
    def mode(self) -> int:
        """Permission bits, with setuid, setgid and sticky."""
        return stat.S_IMODE(self.stat.st_mode)

    @property
    def state(self) -> FileState:
        """What is told of the file to others."""
        return FileState(
            type=self.type,
            mode=self.mode,
            uid=self.stat.st_uid,
            gid=self.stat.st_gid,
            size=self.stat.st_size if self.type == "file" else 0,
            mtime_ns=self.stat.st_mtime_ns,
            target=os.fsdecode(self.target) if self.type == "symlink" else None,
        )

    @property
    def is_whiteout(self) -> bool:
        """Whether overlayfs reads this as "deleted": the device 0:0, or its attribute."""
        if self.type == "char":
            return self.stat.st_rdev == WHITEOUT_DEVICE
        return self.type == "file" and self.stat.st_size == 0 and b"whiteout" in self.private


def inspect(parent_fd: int, name: bytes) -> FileInfo | None:
    """Return what is under a name in an open folder, following nothing; None if nothing is."""
    found = look_at(parent_fd, name)
    if found is None or found.type not in ("file", "dir"):
        return found
    flags = FLAGS if found.type == "dir" else _FILE_FLAGS
    fd = os.open(name, flags, dir_fd=parent_fd)
    try:
        return inspect_open(fd)
    finally:
        os.close(fd)


def look_at(parent_fd: int, name: bytes) -> FileInfo | None:
    """Return what can be told without opening: everything but attributes."""
    try:
        found = os.lstat(name, dir_fd=parent_fd)
    except FileNotFoundError:
        return None
    kind = _TYPES[stat.S_IFMT(found.st_mode)]
    target = os.readlink(name, dir_fd=parent_fd) if kind == "symlink" else b""
    return FileInfo(type=kind, stat=found, target=target)


def inspect_open(fd: int) -> FileInfo:
    """Return what an open file or folder is."""
    found = os.fstat(fd)
    kept, private = attributes.read_all(fd)
    kind = _TYPES[stat.S_IFMT(found.st_mode)]
    return FileInfo(type=kind, stat=found, xattrs=kept, private=private)


def read_chunks(
    parent_fd: int, name: bytes, expected: os.stat_result
) -> Generator[bytes, None, None]:
    """Yield a file's content; refuse it when it is not the file, or changes meanwhile."""
    fd = os.open(name, _FILE_FLAGS, dir_fd=parent_fd)
    try:
        _refuse_changed(fd, name, expected)
        while chunk := os.read(fd, CHUNK_BYTES):
            yield chunk
        _refuse_changed(fd, name, expected)
    finally:
        os.close(fd)


def _refuse_changed(fd: int, name: bytes, expected: os.stat_result) -> None:
    found = os.fstat(fd)
    seen, now = (
        (each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns) for each in (expected, found)
    )
    if seen != now:
        raise ArchiveRejected(f"{shown(name)} changed while it was read")
