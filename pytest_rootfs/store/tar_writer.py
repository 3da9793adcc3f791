"""Write layer archives whose bytes depend on their entries only ("assembly 1", frozen).

POSIX pax. A header field is used when the value fits; an extended header carries what does not:
`path`, `linkpath`, `uid`, `gid`, `size`, `mtime`, `SCHILY.xattr.*`, sorted by key, raw bytes, and
nothing else (no `hdrcharset`, no names of users). No name is split over `prefix`. The archive ends
with exactly two zero blocks. Any change of bytes here is a new assembly number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pytest_rootfs.errors import ArchiveRejected
from pytest_rootfs.store.entries import (
    BLOCK_BYTES,
    ID_MAX,
    ROOT,
    Entry,
    Kind,
    normalised,
    parent_of,
    rejected,
    shown,
)

ASSEMBLY = 1

_TYPES: dict[Kind, bytes] = {
    "file": b"0",
    "hardlink": b"1",
    "symlink": b"2",
    "char": b"3",
    "block": b"4",
    "dir": b"5",
    "fifo": b"6",
}
_NAME_BYTES = 100
_ID_FIELD_MAX = 0o7777777
_LONG_FIELD_MAX = 0o77777777777


class TarWriter:
    """Turn entries into archive bytes, handed to `write` in order; keeps no data.

    It refuses (ValueError) what no layer of ours may hold: a name twice, an entry before its
    parent folder, a hard link to no earlier file.
    """

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._seen: dict[bytes, Kind] = {}
        self.entries = 0

    def add(self, entry: Entry, data: Iterable[bytes] | None = None) -> None:
        """Append one entry; a file's `data` must be exactly `entry.size` bytes long."""
        self._check(entry, has_data=data is not None)
        self._seen[entry.name] = entry.kind
        self.entries += 1
        records = _records(entry)
        if records:
            self._add_extended(entry.name, records)
        self._write(_header(entry))
        if entry.size:
            self._add_data(entry, data or ())

    def close(self) -> None:
        """Write the end of the archive."""
        self._write(bytes(2 * BLOCK_BYTES))

    def _check(self, entry: Entry, *, has_data: bool) -> None:
        problem = ""
        parent = parent_of(entry.name)
        if normalised(entry.name) != entry.name:
            problem = "is not a normalised name"
        elif entry.name in self._seen:
            problem = "is already in the archive"
        elif self._seen.get(parent, "dir" if parent == ROOT else "") != "dir":
            problem = "has no parent folder in the archive"
        elif entry.kind == "hardlink" and self._seen.get(entry.linkname, "dir") == "dir":
            problem = f"repeats {entry.linkname!r}, which is no earlier file"
        elif (entry.name == ROOT and entry.kind != "dir") or entry.kind not in _TYPES:
            problem = f"cannot be a {entry.kind}"
        elif entry.size < 0 or ((entry.size or has_data) and entry.kind != "file"):
            problem = f"is a {entry.kind} with data"
        elif not (0 <= entry.uid <= ID_MAX and 0 <= entry.gid <= ID_MAX):
            problem = f"has the owner {entry.uid}:{entry.gid}"
        elif not all(0 <= number <= _ID_FIELD_MAX for number in entry.dev):
            problem = f"is the device {entry.dev}"
        elif b"\0" in entry.linkname or bool(entry.linkname) != (
            entry.kind in ("symlink", "hardlink")
        ):
            problem = f"is a {entry.kind} to {entry.linkname!r}"
        if problem:
            raise ValueError(f"{entry.name!r} {problem}")

    def _add_extended(self, name: bytes, records: bytes) -> None:
        base = name.rpartition(b"/")[2]
        header = Entry(
            name=(b"PaxHeaders.0/" + base)[:_NAME_BYTES], kind="file", mode=0o644, size=len(records)
        )
        self._write(_header(header, type_flag=b"x"))
        self._write(records + bytes(-len(records) % BLOCK_BYTES))

    def _add_data(self, entry: Entry, data: Iterable[bytes]) -> None:
        written = 0
        for chunk in data:
            written += len(chunk)
            if written > entry.size:
                break
            self._write(chunk)
        if written != entry.size:
            raise ArchiveRejected(
                f"{shown(entry.name)} changed while it was read",
                detail=f"{entry.size} bytes were announced, {written} or more came",
            )
        self._write(bytes(-entry.size % BLOCK_BYTES))


def _records(entry: Entry) -> bytes:
    """Return the extended header's records for what the fixed fields cannot hold."""
    values: dict[bytes, bytes] = {}
    if len(_path(entry)) > _NAME_BYTES:
        values[b"path"] = _path(entry)
    if len(entry.linkname) > _NAME_BYTES:
        values[b"linkpath"] = entry.linkname
    if entry.uid > _ID_FIELD_MAX:
        values[b"uid"] = b"%d" % entry.uid
    if entry.gid > _ID_FIELD_MAX:
        values[b"gid"] = b"%d" % entry.gid
    if entry.size > _LONG_FIELD_MAX:
        values[b"size"] = b"%d" % entry.size
    if not 0 <= entry.mtime <= _LONG_FIELD_MAX:
        values[b"mtime"] = b"%d" % entry.mtime
    for name, value in entry.xattrs.items():
        if not value or not name or b"=" in name or b"\0" in name:
            raise rejected(entry.name, f"a pax header cannot hold the attribute {name!r}")
        values[b"SCHILY.xattr." + name] = value
    return b"".join(_record(key, values[key]) for key in sorted(values))


def _record(key: bytes, value: bytes) -> bytes:
    r"""Return `LENGTH key=value\n`, where LENGTH counts the whole record, itself included."""
    rest = b" %s=%s\n" % (key, value)
    length = len(rest)
    while length != len(rest) + len(b"%d" % length):
        length = len(rest) + len(b"%d" % length)
    return b"%d%s" % (length, rest)


def _header(entry: Entry, *, type_flag: bytes = b"") -> bytes:
    """Return the 512 bytes of a ustar header; a value that does not fit becomes zero."""
    header = b"".join(
        (
            _path(entry)[:_NAME_BYTES].ljust(_NAME_BYTES, b"\0"),
            _octal(entry.mode & 0o7777, 8),
            _octal(entry.uid if entry.uid <= _ID_FIELD_MAX else 0, 8),
            _octal(entry.gid if entry.gid <= _ID_FIELD_MAX else 0, 8),
            _octal(entry.size if entry.size <= _LONG_FIELD_MAX else 0, 12),
            _octal(entry.mtime if 0 <= entry.mtime <= _LONG_FIELD_MAX else 0, 12),
            b" " * 8,
            type_flag or _TYPES[entry.kind],
            entry.linkname[:_NAME_BYTES].ljust(_NAME_BYTES, b"\0"),
            b"ustar\x0000",
            bytes(64),
            _octal(entry.dev[0], 8),
            _octal(entry.dev[1], 8),
            bytes(167),
        )
    )
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


def _path(entry: Entry) -> bytes:
    if entry.name == ROOT:
        return b"./"
    return entry.name + b"/" if entry.kind == "dir" else entry.name


def _octal(value: int, width: int) -> bytes:
    return b"%0*o\0" % (width - 1, value)
