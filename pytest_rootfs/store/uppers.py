"""Compare the writable layer of an overlay with the image layers below it.

The writable ("upper") folder is read raw, as overlayfs leaves it on disk; the image is the merged
view of its layers, without the init layer. The order is that of a layer archive: a folder, the
names deleted in it, then everything else in it, in byte order, depth first. Rules: BuildKit's
`overlay.Changes` and continuity's `sameDirent`. Layers between the two, such as snapshots that a
container began from, are read with the upper folder as if they were one: the topmost that has a
name decides.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pytest_rootfs.store import attributes
from pytest_rootfs.store.entries import ROOT, normalised, rejected
from pytest_rootfs.store.file_info import (
    CHUNK_BYTES,
    FileInfo,
    inspect,
    inspect_open,
    look_at,
    read_chunks,
)
from pytest_rootfs.store.folders import FLAGS

Action = Literal["added", "modified", "deleted", "same"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """What is compared: open folders, which whoever opened them closes.

    `base_fd` is the view of the image's layers, -1 for an image without any. `between` are unpacked
    layers on top of the image, topmost first, that count with the upper folder. `hidden` paths, and
    all below them, do not exist for the comparison.
    """

    upper_fd: int
    base_fd: int = -1
    between: Sequence[int] = ()
    hidden: Sequence[bytes] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What became of one path (relative; the root is `b"."`).

    "same" is reported of folders, which may be parents of differences, and of files with more
    than one name in the upper folder: only linking a file brings it there with two.
    `parent_fd` is the folder that holds it, until the next difference is asked for: of the upper
    folder, or of the layer between that decides. `changed_ns` is the newest time at which it can
    have changed, by the kernel's clock (ctime), which no program sets. Names that are deleted in
    one folder share one: overlayfs makes its whiteouts as links of one file.
    """

    path: bytes
    action: Action
    upper: FileInfo | None
    base: FileInfo | None
    parent_fd: int
    changed_ns: int

    @property
    def name(self) -> bytes:
        """The last part of the path."""
        return self.path.rpartition(b"/")[2]


def compare(sides: Sides) -> Iterator[Difference]:
    """Yield what differs, in the order of a layer archive.

    Raises ArchiveRejected for an upper folder that this reads wrongly: one mounted with
    redirect_dir or metacopy on.
    """
    comparison = _Comparison(frozenset(normalised(path) for path in sides.hidden))
    yield from comparison.run([sides.upper_fd, *sides.between], sides.base_fd)


@dataclass(slots=True, kw_only=True)
class _Name:
    """What the upper folders say of one name in a folder; the topmost that has it decides.

    `holders` are those folders with it, topmost first: several only of a folder, whose files come
    from all. `hides_base` when nothing of further layers shows below it.
    """

    info: FileInfo
    holders: list[int]
    hides_base: bool


@dataclass(slots=True, kw_only=True)
class _Frame:
    """A folder that is being compared.

    `hides_base`: nothing of the base shows below it. Folders made in such a folder are not marked
    opaque: overlayfs finds nothing to hide below them (ovl_create_or_link in fs/overlayfs/dir.c).
    """

    path: bytes
    upper_fds: list[int]
    base_fd: int
    hides_base: bool
    names: Iterator[tuple[bytes, _Name]]

    def close(self) -> None:
        for fd in (*self.upper_fds, self.base_fd):
            if fd >= 0:
                os.close(fd)

    def join(self, name: bytes) -> bytes:
        return name if self.path == ROOT else self.path + b"/" + name


class _Comparison:
    def __init__(self, hidden: frozenset[bytes]) -> None:
        self._hidden = hidden
        self._stack: list[_Frame] = []

    def run(self, upper_fds: list[int], base_fd: int) -> Iterator[Difference]:
        root = _Name(info=inspect_open(upper_fds[0]), holders=upper_fds, hides_base=False)
        try:
            yield from self._enter(ROOT, ROOT, root, base_fd)
            while self._stack:
                frame = self._stack[-1]
                for name, found in frame.names:
                    yield from self._visit(frame, name, found)
                    if self._stack[-1] is not frame:
                        break
                else:
                    self._stack.pop().close()
        finally:
            while self._stack:
                self._stack.pop().close()

    def _visit(self, frame: _Frame, name: bytes, found: _Name) -> Iterator[Difference]:
        path, upper = frame.join(name), found.info
        if upper.type == "dir":
            found.hides_base |= frame.hides_base
            yield from self._enter(path, name, found, frame.base_fd)
            return
        _refuse_foreign(path, upper)
        parent_fd = found.holders[0]
        base = _base_info(frame.base_fd, name)
        action = _action((parent_fd, frame.base_fd), name, upper, base)
        if action != "same" or upper.stat.st_nlink > 1:
            yield _difference(path, action, upper, base, parent_fd)

    def _enter(
        self, path: bytes, name: bytes, found: _Name, base_parent: int
    ) -> Iterator[Difference]:
        """Report a folder and what was deleted in it, and go on inside."""
        base = _base_info(base_parent, name)
        frame = _Frame(
            path=path, upper_fds=[], base_fd=-1, hides_base=found.hides_base, names=iter(())
        )
        self._stack.append(frame)
        for holder in found.holders:
            frame.upper_fds.append(os.open(name, FLAGS, dir_fd=holder))
        if base is not None and base.type == "dir":
            frame.base_fd = os.open(name, FLAGS, dir_fd=base_parent)
        upper, parent_fd = inspect_open(frame.upper_fds[0]), found.holders[0]
        _refuse_foreign(path, upper)
        action: Action = "added" if base is None else "modified"
        if base is not None and _is_same_inode(upper, base):
            action = "same"
        yield _difference(path, action, upper, base, parent_fd)
        present, deleted = self._listing(frame)
        for each in deleted:
            gone = _base_info(frame.base_fd, each)
            if gone is not None:
                yield Difference(
                    path=frame.join(each),
                    action="deleted",
                    upper=None,
                    base=gone,
                    parent_fd=frame.upper_fds[0],
                    changed_ns=_deleted_ns(frame.upper_fds[0], each),
                )
        frame.names = iter(present)

    def _listing(self, frame: _Frame) -> tuple[list[tuple[bytes, _Name]], list[bytes]]:
        """Return a folder's files and the names that are deleted in it, both in byte order."""
        found: dict[bytes, _Name | None] = {}
        for fd in frame.upper_fds:
            for name in self._names(frame, fd):
                found[name] = _seen_in(fd, name, found[name]) if name in found else _first(fd, name)
        deleted = {name for name, seen in found.items() if seen is None}
        if frame.hides_base and frame.base_fd >= 0:
            deleted.update(
                name for name in self._names(frame, frame.base_fd) if not found.get(name)
            )
        present = [(name, seen) for name, seen in sorted(found.items()) if seen is not None]
        return present, sorted(deleted)

    def _names(self, frame: _Frame, fd: int) -> list[bytes]:
        names = sorted(os.fsencode(name) for name in os.listdir(fd))
        return [name for name in names if frame.join(name) not in self._hidden]


def _difference(
    path: bytes, action: Action, upper: FileInfo, base: FileInfo | None, parent_fd: int
) -> Difference:
    """Return the difference of a path that the upper folder has."""
    return Difference(
        path=path,
        action=action,
        upper=upper,
        base=base,
        parent_fd=parent_fd,
        changed_ns=upper.stat.st_ctime_ns,
    )


def _deleted_ns(folder_fd: int, name: bytes) -> int:
    """Return the newest time at which a name can have been deleted from a folder."""
    newest_ns = os.fstat(folder_fd).st_mtime_ns
    try:
        return min(newest_ns, os.lstat(name, dir_fd=folder_fd).st_ctime_ns)
    except FileNotFoundError:  # hidden as a whole, or deleted in a layer between
        return newest_ns


def _first(fd: int, name: bytes) -> _Name | None:
    """Return what the topmost folder with a name says of it; None where it is deleted."""
    info = inspect(fd, name)
    if info is None or info.is_whiteout:
        return None
    return _Name(info=info, holders=[fd], hides_base=_is_opaque(info))


def _seen_in(fd: int, name: bytes, above: _Name | None) -> _Name | None:
    """Return what is known of a name once a further folder, below the others, was looked at."""
    if above is None or above.info.type != "dir" or above.hides_base:
        return above
    below = _first(fd, name)
    if below is None or below.info.type != "dir":
        above.hides_base = True
    else:
        above.holders.append(fd)
        above.hides_base = below.hides_base
    return above


def _is_opaque(info: FileInfo) -> bool:
    return info.private.get(b"opaque") == b"y"


def _base_info(base_fd: int, name: bytes) -> FileInfo | None:
    if base_fd < 0:
        return None
    try:
        found = inspect(base_fd, name)
    except PermissionError:
        # On the `host` image: a file of another user, deleted from a folder of one's own.
        found = look_at(base_fd, name)
    # A single layer is not merged with anything, so its own whiteouts are still visible.
    return None if found is None or found.is_whiteout else found


def _action(
    folders: tuple[int, int], name: bytes, upper: FileInfo, base: FileInfo | None
) -> Action:
    if base is None:
        return "added"
    if not _is_same_inode(upper, base) or upper.target != base.target:
        return "modified"
    if upper.stat.st_mtime_ns != base.stat.st_mtime_ns:
        return "modified"
    if upper.type != "file":
        return "same"
    if upper.stat.st_size != base.stat.st_size:
        return "modified"
    # Layers hold whole seconds: an equal time then proves nothing.
    is_exact = upper.stat.st_mtime_ns % 10**9 != 0
    return "same" if is_exact or _is_same_content(folders, name, upper, base) else "modified"


def _is_same_inode(upper: FileInfo, base: FileInfo) -> bool:
    """Compare what chmod, chown and setfattr change."""
    if upper.type != base.type or upper.mode != base.mode:
        return False
    if (upper.stat.st_uid, upper.stat.st_gid) != (base.stat.st_uid, base.stat.st_gid):
        return False
    if upper.type in ("char", "block") and upper.stat.st_rdev != base.stat.st_rdev:
        return False
    return _kept(upper) == _kept(base)


def _kept(info: FileInfo) -> dict[bytes, bytes]:
    return {name: value for name, value in info.xattrs.items() if attributes.is_kept(name)}


def _is_same_content(
    folders: tuple[int, int], name: bytes, upper: FileInfo, base: FileInfo
) -> bool:
    ours = _filled(read_chunks(folders[0], name, upper.stat))
    theirs = _filled(read_chunks(folders[1], name, base.stat))
    return all(one == other for one, other in zip(ours, theirs, strict=True))


def _filled(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Join short reads, so that every chunk but the last has the full size."""
    buffer = b""
    for chunk in chunks:
        buffer = buffer + chunk if buffer else chunk
        while len(buffer) >= CHUNK_BYTES:
            yield buffer[:CHUNK_BYTES]
            buffer = buffer[CHUNK_BYTES:]
    if buffer:
        yield buffer


def _refuse_foreign(path: bytes, upper: FileInfo) -> None:
    for name in (b"redirect", b"metacopy"):
        if name in upper.private:
            raise rejected(
                path, f"overlayfs left only a reference here (attribute {name.decode()})"
            )
