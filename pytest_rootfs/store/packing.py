"""Turn a writable layer into an OCI layer archive.

Deletions become explicit whiteouts, also below a folder that was made anew: every reader knows
those. Every entry comes after all its parents, the root included, with the attributes that the
container sees: in an overlay those of the topmost layer count.
"""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass
from typing import BinaryIO

from pytest_rootfs.errors import ArchiveRejected
from pytest_rootfs.settings import shown_size
from pytest_rootfs.store import attributes
from pytest_rootfs.store.entries import ROOT, Entry, Kind, shown
from pytest_rootfs.store.file_info import FileInfo, read_chunks
from pytest_rootfs.store.layers import WHITEOUT
from pytest_rootfs.store.notes import Notes
from pytest_rootfs.store.sinks import Sink
from pytest_rootfs.store.tar_writer import TarWriter
from pytest_rootfs.store.uppers import Difference, Sides, compare

_SILENT = (b"security.selinux", b"security.ima", b"security.evm")
_NAMES_LISTED = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PackResult:
    """What was packed: the archive's digest and its `size` in bytes.

    No entries: nothing differs. `skipped` says in words what is left out.
    """

    diff_id: str
    size: int
    entries: int
    skipped: tuple[str, ...]


def pack(
    sides: Sides,
    out: BinaryIO,
    *,
    clamp_mtime: int | None = None,
    max_bytes: int | None = None,
) -> PackResult:
    """Write what differs to `out`.

    Times are whole seconds, at most `clamp_mtime`; whiteouts have time 0. Raises ArchiveRejected
    for files named `.wh.…`, which every reader of the layer would take for deletions, and for
    files that change while they are read, and before it writes more than `max_bytes`: a sparse file
    takes no room in a container, but all of its size in an archive. Memory does not grow with the
    size of files.
    """
    packing = Packing(out, clamp_mtime, max_bytes)
    try:
        for found in compare(sides):
            packing.add(found)
        return packing.finish()
    finally:
        packing.close()


class Packing:
    """One archive in the making: `add` every difference in order, then `finish`."""

    def __init__(self, out: BinaryIO, clamp_mtime: int | None, max_bytes: int | None) -> None:
        self._sink = Sink(out)
        self._max_bytes = max_bytes
        self._clamp_mtime = clamp_mtime
        self._tar = TarWriter(self._sink.write)
        self._parents: list[Difference] = []
        self._written: set[bytes] = set()
        self._first_names: dict[tuple[int, int], bytes] = {}
        self._reserved: list[bytes] = []
        self._noted: set[bytes] = set()
        self._notes = Notes()

    def add(self, found: Difference) -> None:
        """Write what a difference needs; raises as `pack` does."""
        while self._parents and not _is_below(found.path, self._parents[-1].path):
            self._written.discard(self._parents.pop().path)
        upper = found.upper
        if upper is None:
            self._add_parents()
            self._add_whiteout(found)
        elif found.name.startswith(WHITEOUT):
            self._reserved.append(found.path)
        elif upper.type == "dir":
            if found.action != "same":
                self._add_parents()
                self._add_folder(found)
            self._parents.append(found)
        elif upper.type == "socket":
            self._notes.add(f"{shown(found.path)} is a socket")
        else:
            self._add_parents()
            self._add_file(found, upper)

    def finish(self) -> PackResult:
        """Write the end of the archive; raises ArchiveRejected for reserved names."""
        if self._reserved:
            names = ", ".join(shown(path) for path in self._reserved[:_NAMES_LISTED])
            raise ArchiveRejected(
                f"{len(self._reserved)} file name(s) mean a deletion in a layer",
                detail=names,
                hint="rename what begins with `.wh.`; no OCI image can hold it",
            )
        self._tar.close()
        return PackResult(
            diff_id="sha256:" + self._sink.finish(),
            size=self._sink.size,
            entries=self._tar.entries,
            skipped=self._notes.shown(),
        )

    def close(self) -> None:
        """End what works for it; nothing can be added then."""
        self._sink.close()

    def _add_parents(self) -> None:
        for parent in self._parents:
            if parent.path not in self._written:
                self._add_folder(parent)

    def _add_folder(self, found: Difference) -> None:
        if found.upper is None:
            raise AssertionError(f"{found.path!r} is not there")
        self._written.add(found.path)
        self._tar.add(self._entry(found.path, "dir", found.upper))

    def _add_whiteout(self, found: Difference) -> None:
        name = found.path[: len(found.path) - len(found.name)] + WHITEOUT + found.name
        self._tar.add(Entry(name=name, kind="file", mode=0))

    def _check_size(self, found: Difference, size: int) -> None:
        if self._max_bytes is not None and self._sink.size + size > self._max_bytes:
            raise ArchiveRejected(
                f"{shown(found.path)} has {shown_size(size)}, and the layer may have "
                f"{shown_size(self._max_bytes)} in all",
                detail="it is the smaller of four times disk=… and of what the store has free",
                hint="remove large or sparse files, or raise disk=…",
            )

    def _add_file(self, found: Difference, upper: FileInfo) -> None:
        inode = (upper.stat.st_dev, upper.stat.st_ino)
        first = self._first_names.get(inode)
        if first is not None:
            self._tar.add(self._entry(found.path, "hardlink", upper, linkname=first))
            return
        if upper.stat.st_nlink > 1:
            self._first_names[inode] = found.path
        if upper.type == "file":
            self._check_size(found, upper.stat.st_size)
            with closing(read_chunks(found.parent_fd, found.name, upper.stat)) as content:
                self._tar.add(self._entry(found.path, "file", upper), content)
        elif upper.type != "socket":
            entry = self._entry(found.path, upper.type, upper, linkname=upper.target)
            self._tar.add(entry)

    def _entry(self, path: bytes, kind: Kind, upper: FileInfo, *, linkname: bytes = b"") -> Entry:
        mtime = upper.stat.st_mtime_ns // 10**9
        if self._clamp_mtime is not None:
            mtime = min(mtime, self._clamp_mtime)
        device = upper.stat.st_rdev if kind in ("char", "block") else 0
        return Entry(
            name=path,
            kind=kind,
            mode=upper.mode,
            uid=upper.stat.st_uid,
            gid=upper.stat.st_gid,
            size=upper.stat.st_size if kind == "file" else 0,
            mtime=mtime,
            linkname=linkname,
            dev=(os.major(device), os.minor(device)),
            xattrs={} if kind == "hardlink" else self._xattrs(path, upper),
        )

    def _xattrs(self, path: bytes, upper: FileInfo) -> dict[bytes, bytes]:
        kept: dict[bytes, bytes] = {}
        for name, value in upper.xattrs.items():
            if attributes.is_kept(name) and value and b"=" not in name:
                kept[name] = value
            elif name not in _SILENT and name not in self._noted:
                # A pax header has no way to write an empty value or a `=` in a name.
                self._noted.add(name)
                self._notes.add(f"attribute {shown(name)}, first on {shown(path)}")
        return kept


def _is_below(path: bytes, folder: bytes) -> bool:
    return folder == ROOT or path.startswith(folder + b"/")
