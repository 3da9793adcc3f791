"""Hold the content of one step: entries, where their bytes are, what of the host decided them."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from pytest_rootfs.errors import RecipeError

Kind = Literal["file", "dir", "symlink"]
Fingerprint = tuple[int, ...]
"""mode, inode, size, mtime_ns, ctime_ns of an lstat; empty when there is no such file."""

CHUNK_BYTES = 1 << 20
# A file that changes twice within one tick of the file system's clock keeps its times: what is
# this young is hashed again next time (git's "racily clean"; ext4 ticks every 4 ms, NFS up to 2 s).
YOUNG_NS = 2_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeEntry:
    """Describe one file, folder or link to write into a layer.

    `path` is relative to the image's root or to the target of a copy, "" being that itself.
    The bytes of a file are `content`, or those of the host's file `source`.
    """

    path: bytes
    kind: Kind
    mode: int
    owner: tuple[int, int] = (0, 0)
    size: int = 0
    sha256: str = ""
    linkname: bytes = b""
    content: bytes | None = None
    source: str = ""

    def canonical(self) -> list[object]:
        """Return what decides the layer: everything but where the bytes lie."""
        path, linkname = os.fsdecode(self.path), os.fsdecode(self.linkname)
        return [path, self.kind, self.mode, *self.owner, self.size, self.sha256, linkname]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """Hold the content of one step, sorted by path; `basename` names a copied file or folder."""

    entries: tuple[TreeEntry, ...]
    basename: bytes = b""
    seen: tuple[tuple[str, Fingerprint], ...] = ()
    skipped: tuple[str, ...] = ()
    is_settled: bool = True

    @property
    def digest(self) -> str:
        """Return the identity of the content, the same wherever it was read."""
        rows = [os.fsdecode(self.basename), *(entry.canonical() for entry in self.entries)]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


class Witness:
    """Record which files of the host decided a tree, to tell later whether they still do."""

    def __init__(self) -> None:
        self._since_ns = time.time_ns()
        self._seen: dict[str, Fingerprint] = {}

    def look(self, path: str) -> Fingerprint:
        """Return and record the fingerprint of a path; the first look counts."""
        return self._seen.setdefault(path, fingerprint(path))

    @property
    def seen(self) -> tuple[tuple[str, Fingerprint], ...]:
        """Return everything recorded, sorted by path."""
        return tuple(sorted(self._seen.items()))

    @property
    def is_settled(self) -> bool:
        """Tell whether everything is old enough for its times to prove that it is unchanged."""
        newest_ns = self._since_ns - YOUNG_NS
        return all(
            mark[3] <= newest_ns and mark[4] <= newest_ns for mark in self._seen.values() if mark
        )


def fingerprint(path: str) -> Fingerprint:
    """Return the fingerprint of a path, not following a link; empty when it is not there."""
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return ()
    return (status.st_mode, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def is_unchanged(seen: Iterable[tuple[str, Iterable[int]]]) -> bool:
    """Tell whether every path still has the fingerprint it had."""
    return all(fingerprint(path) == tuple(mark) for path, mark in seen)


def _read_file(path: str) -> Iterator[bytes]:
    """Yield the bytes of a regular file in pieces; a link as last component is refused."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise RecipeError(f"{path} is no longer a regular file")
        while piece := file.read(CHUNK_BYTES):
            yield piece


def file_entry(path: bytes, source: str, *, mode: int, owner: tuple[int, int]) -> TreeEntry:
    """Return the entry of a host file, hashing it."""
    hashed = hashlib.sha256()
    size = 0
    for piece in _read_file(source):
        hashed.update(piece)
        size += len(piece)
    return TreeEntry(
        path=path,
        kind="file",
        mode=mode,
        owner=owner,
        size=size,
        sha256=hashed.hexdigest(),
        source=source,
    )


def entry_pieces(entry: TreeEntry) -> Iterator[bytes]:
    """Yield the bytes of a file; raises `RecipeError` when they are not those that were hashed."""
    if entry.content is not None:
        yield entry.content
        return
    hashed = hashlib.sha256()
    size = 0
    try:
        for piece in _read_file(entry.source):
            size += len(piece)
            if size > entry.size:
                break
            hashed.update(piece)
            yield piece
    except OSError as error:
        raise RecipeError(f"cannot read {entry.source}: {error.strerror}") from error
    if size != entry.size or hashed.hexdigest() != entry.sha256:
        raise RecipeError(
            f"{entry.source} changed while it was being copied",
            hint="build again when nothing writes to it",
        )


def content_entry(
    path: bytes, content: bytes, *, mode: int = 0o644, owner: tuple[int, int] = (0, 0)
) -> TreeEntry:
    """Return the entry of a file whose bytes are at hand."""
    return TreeEntry(
        path=path,
        kind="file",
        mode=mode,
        owner=owner,
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        content=content,
    )
