"""Record a whole tree, entry for entry, to compare it with what another program made of it."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_rootfs.store import attributes

FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One path. `first` is the first name of the same inode, in byte order, if it has two."""

    kind: int
    mode: int
    owner: tuple[int, int]
    mtime: int
    content: bytes = b""
    dev: int = 0
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    first: bytes = b""


Snapshot = dict[bytes, Seen]


def snapshot(top: Path | int) -> Snapshot:
    """Return everything in a folder, itself included (`b"."`), by relative name."""
    top_fd = os.open(top, FLAGS) if isinstance(top, Path) else os.open(".", FLAGS, dir_fd=top)
    try:
        found: Snapshot = {b".": _seen(top_fd, b".", b".", {})}
        found.update(_walk(top_fd, b"", {}))
        return _with_real_links(found)
    finally:
        os.close(top_fd)


def without_owners(found: Snapshot) -> Snapshot:
    """Return a snapshot as one user's unpacking would leave it."""
    return {name: replace(seen, owner=(0, 0)) for name, seen in found.items()}


def as_mounted(found: Snapshot) -> Snapshot:
    """Return a snapshot without what a writable overlay does not tell for certain.

    A folder's time alone is no change. Two names of a file that was copied up may have two inode
    numbers (overlayfs.rst, "Inode properties", without xino).
    """
    return {
        name: replace(seen, mtime=0 if stat.S_ISDIR(seen.kind) else seen.mtime, first=b"")
        for name, seen in found.items()
    }


def _with_real_links(found: Snapshot) -> Snapshot:
    """Forget links whose other names are not in the tree: an overlay goes on counting them."""
    counts = Counter(seen.first for seen in found.values())
    return {
        name: replace(seen, first=b"") if counts[seen.first] == 1 else seen
        for name, seen in found.items()
    }


def _walk(
    folder_fd: int, prefix: bytes, firsts: dict[tuple[int, int], bytes]
) -> Iterator[tuple[bytes, Seen]]:
    for name in sorted(os.fsencode(each) for each in os.listdir(folder_fd)):
        path = prefix + name
        seen = _seen(folder_fd, name, path, firsts)
        yield path, seen
        if stat.S_ISDIR(seen.kind):
            child_fd = os.open(name, FLAGS, dir_fd=folder_fd)
            try:
                yield from _walk(child_fd, path + b"/", firsts)
            finally:
                os.close(child_fd)


def _seen(folder_fd: int, name: bytes, path: bytes, firsts: dict[tuple[int, int], bytes]) -> Seen:
    status = os.lstat(name, dir_fd=folder_fd)
    kind = stat.S_IFMT(status.st_mode)
    content, kept = b"", {}
    if kind == stat.S_IFLNK:
        content = os.readlink(name, dir_fd=folder_fd)
    elif kind in (stat.S_IFREG, stat.S_IFDIR):
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder_fd)
        try:
            content = _content(fd) if kind == stat.S_IFREG else b""
            kept, _ = attributes.read_all(fd)
        finally:
            os.close(fd)
    is_linked = status.st_nlink > 1 and kind != stat.S_IFDIR
    return Seen(
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        owner=(status.st_uid, status.st_gid),
        mtime=int(status.st_mtime_ns // 10**9),
        content=content,
        dev=status.st_rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0,
        xattrs=tuple(sorted(item for item in kept.items() if attributes.is_kept(item[0]))),
        first=firsts.setdefault((status.st_dev, status.st_ino), path) if is_linked else b"",
    )


def _content(fd: int) -> bytes:
    with os.fdopen(fd, "rb", closefd=False) as file:
        return file.read()
