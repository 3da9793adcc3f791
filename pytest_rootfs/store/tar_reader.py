"""Read layer archives strictly, as a stream; refuse whatever has two readings.

Understood: V7, ustar (with prefix), GNU long names, base-256 numbers and sparse files, pax extended
headers. Refused, always with the entry's number and name: negative or oversized numbers, wrong
checksums, lying lengths, global headers that say more than a comment, unknown types, names that
leave the root, data where there can be none, an end in the middle of something, and anything but
zeros after the end. A missing end marker after a whole entry is noted.
CPython's `tarfile` accepts several of these silently, so it serves only as an oracle in tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pytest_rootfs.errors import ArchiveRejected
from pytest_rootfs.store import tar_sparse
from pytest_rootfs.store.entries import (
    BLOCK_BYTES,
    ID_MAX,
    ROOT,
    Entry,
    Kind,
    normalised,
    rejected,
    shown,
)
from pytest_rootfs.store.notes import Notes
from pytest_rootfs.store.reading import CHUNK_BYTES, Readable
from pytest_rootfs.store.tar_fields import extended_records, number, text, whole_number
from pytest_rootfs.store.tar_sparse import Segments

METADATA_BYTES_MAX = 1 << 20

_KINDS: dict[bytes, Kind] = {
    b"\0": "file",
    b"0": "file",
    b"7": "file",
    b"S": "file",
    b"1": "hardlink",
    b"2": "symlink",
    b"3": "char",
    b"4": "block",
    b"5": "dir",
    b"6": "fifo",
}
_ZERO_BLOCK = bytes(BLOCK_BYTES)
_SIZE_MAX = 2**63 - 1
_SPARSE_SIZES = {b"GNU.sparse.size", b"GNU.sparse.realsize", b"GNU.sparse.major"}
_XATTR = b"SCHILY.xattr."


class Reader:
    """The data of one entry. What is left unread when the next entry is asked for is skipped."""

    def __init__(self, file: Readable, size: int) -> None:
        self._file = file
        self._left = self.stored = size

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes, all that is left if negative; none at the end."""
        wanted = self._left if size < 0 else min(size, self._left)
        data = _exactly(self._file, wanted)
        self._left -= len(data)
        return data

    def __iter__(self) -> Iterator[bytes]:
        """Yield the rest in chunks of at most 256 KiB."""
        while self._left:
            yield self.read(CHUNK_BYTES)

    @property
    def left(self) -> int:
        """How much is not read yet."""
        return self._left

    def exactly(self, size: int) -> bytes:
        """Return `size` bytes, or refuse an entry that has fewer."""
        if size > self._left:
            raise ArchiveRejected("the map of a sparse file is cut off")
        return self.read(size)

    def skip(self) -> None:
        """Skip the rest."""
        for _ in self:
            pass


class SparseReader(Reader):
    """The data of a sparse file: what is stored, and zeros for the holes."""

    def __init__(self, stored: Reader, segments: Segments, real: int) -> None:
        self._stored = stored
        self._segments = [*segments, (real, 0)][::-1]
        self._at = 0
        self._left = real
        self.stored = stored.stored

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes, all that is left if negative; none at the end."""
        wanted = self._left if size < 0 else min(size, self._left)
        parts: list[bytes] = []
        while wanted:
            part = self._piece(wanted)
            parts.append(part)
            wanted -= len(part)
        return b"".join(parts)

    def skip(self) -> None:
        """Skip what is stored; holes take no time."""
        self._stored.skip()

    def _piece(self, size: int) -> bytes:
        """Return at most `size` bytes, of one segment or of the hole before it."""
        while self._at >= sum(self._segments[-1]):
            self._segments.pop()
        offset, length = self._segments[-1]
        if self._at < offset:
            part = bytes(min(size, offset - self._at))
        else:
            part = self._stored.read(min(size, offset + length - self._at))
        self._at += len(part)
        self._left -= len(part)
        return part


def read_entries(file: Readable, notes: Notes | None = None) -> Iterator[tuple[Entry, Reader]]:
    """Yield every entry with its data, in archive order, and read `file` to its very end.

    `notes` gets a remark on an archive without an end marker.
    """
    count = 0
    while True:
        try:
            found = _next_entry(file, is_first=count == 0, notes=notes)
        except ArchiveRejected as error:
            raise ArchiveRejected(f"{error.what} (entry {count + 1})") from error
        if found is None:
            return
        count += 1
        yield found
        _pass(file, *found, count)


def _pass(file: Readable, entry: Entry, reader: Reader, count: int) -> None:
    """Go to the end of an entry's last block."""
    reader.skip()
    if any(_exactly(file, -reader.stored % BLOCK_BYTES)):
        refusal = rejected(entry.name, "its padding is not zero")
        raise ArchiveRejected(f"{refusal.what} (entry {count})")


def _next_entry(
    file: Readable, *, is_first: bool, notes: Notes | None
) -> tuple[Entry, Reader] | None:
    """Read headers up to and including the next real one; None at a proper end."""
    records: dict[bytes, bytes] = {}
    while True:
        header = _header(file, may_end=not (is_first or records))
        if header == _ZERO_BLOCK and not records:
            _expect_end(file, notes)
            return None
        if not header:
            _note_end(notes)
            return None
        if header == _ZERO_BLOCK:
            raise ArchiveRejected("the archive ends after an extended header")
        _verify_checksum(header)
        kind = header[156:157]
        if kind in b"xgLK":
            _add_records(records, kind, _metadata(file, header))
            continue
        return _entry(file, header, records)


def _add_records(records: dict[bytes, bytes], kind: bytes, body: bytes) -> None:
    if kind == b"g":
        extra = set(extended_records(body)) - {b"comment"}
        if extra:
            raise ArchiveRejected(
                f"a global header sets {shown(min(extra))}; only a comment is accepted"
            )
        return
    if kind == b"x":
        found = extended_records(body)
    else:
        name = body.rstrip(b"\0")
        if b"\0" in name:
            raise ArchiveRejected("a GNU long name contains a NUL byte")
        found = {b"path" if kind == b"L" else b"linkpath": name}
    twice = found.keys() & records.keys()
    if twice:
        raise ArchiveRejected(f"two headers set {shown(min(twice))} of one entry")
    records.update(found)


def _entry(file: Readable, header: bytes, records: Mapping[bytes, bytes]) -> tuple[Entry, Reader]:
    raw_name = records.get(b"GNU.sparse.name") or records.get(b"path") or _header_name(header)
    try:
        return _checked_entry(file, header, records, raw_name)
    except ArchiveRejected as error:
        if "archive entry" in error.what:
            raise
        raise rejected(raw_name, error.what) from error


def _checked_entry(
    file: Readable, header: bytes, records: Mapping[bytes, bytes], raw_name: bytes
) -> tuple[Entry, Reader]:
    kind = _KINDS.get(header[156:157])
    if kind is None:
        raise rejected(raw_name, f"its type {header[156:157]!r} is not supported")
    stored = _pax_number(records, b"size", header[124:136], "size", 0, _SIZE_MAX)
    if kind == "file" and raw_name.endswith(b"/"):
        kind = "dir"  # how archivers older than the type flag 5 write a folder
    if stored and kind != "file":
        raise rejected(raw_name, f"a {kind} cannot have data")
    link = records.get(b"linkpath") or text(header[157:257])
    data, size = _data(file, header, records, stored)
    entry = Entry(
        name=_checked_name(raw_name, kind),
        kind=kind,
        mode=number(header[100:108], "mode") & 0o7777,
        uid=_pax_number(records, b"uid", header[108:116], "uid", 0, ID_MAX),
        gid=_pax_number(records, b"gid", header[116:124], "gid", 0, ID_MAX),
        size=size,
        mtime=_pax_number(records, b"mtime", header[136:148], "mtime", -(2**62), 2**62),
        linkname=_checked_link(raw_name, kind, link),
        dev=_device(header) if kind in ("char", "block") else (0, 0),
        xattrs={key[len(_XATTR) :]: records[key] for key in records if key.startswith(_XATTR)},
    )
    return entry, data


def _data(
    file: Readable, header: bytes, records: Mapping[bytes, bytes], stored: int
) -> tuple[Reader, int]:
    """Return what reads an entry's data, and how much there is with all holes."""
    data = Reader(file, stored)
    if header[156:157] == b"S":
        segments, real = tar_sparse.old_map(header, lambda size: _exactly(file, size))
    elif not records.keys() & _SPARSE_SIZES:
        return data, stored
    else:
        segments, real = tar_sparse.record_map(records, data.exactly)
    if not 0 <= real <= _SIZE_MAX:
        raise ArchiveRejected(f"its size {real} is out of range")
    return SparseReader(data, tar_sparse.checked(segments, stored=data.left, real=real), real), real


def _checked_name(raw_name: bytes, kind: Kind) -> bytes:
    name = normalised(raw_name)
    if name == ROOT and kind != "dir":
        raise rejected(raw_name, f"the root cannot be a {kind}")
    return name


def _checked_link(raw_name: bytes, kind: Kind, link: bytes) -> bytes:
    if kind == "hardlink":
        target = normalised(link)
        if target in (ROOT, normalised(raw_name)):
            raise rejected(raw_name, f"it is a hard link to {shown(target)}")
        return target
    if kind != "symlink":
        return b""
    if not link or b"\0" in link or len(link) > 4095:
        raise rejected(raw_name, "the target of the symbolic link is empty, too long or has a NUL")
    return link


def _device(header: bytes) -> tuple[int, int]:
    major, minor = number(header[329:337], "major"), number(header[337:345], "minor")
    if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
        raise ArchiveRejected(f"Linux has no device {major}:{minor}")
    return major, minor


def _pax_number(
    records: Mapping[bytes, bytes], key: bytes, field: bytes, name: str, low: int, high: int
) -> int:
    """Return a number from the extended header if it has one, else from the fixed field."""
    record = records.get(key, b"")
    value = whole_number(record, name) if record else number(field, name)
    if not low <= value <= high:
        raise ArchiveRejected(f"its {name} {value} is out of range")
    return value


def _header_name(header: bytes) -> bytes:
    """Return the name in the fixed fields; only POSIX headers have a prefix."""
    name = text(header[0:100])
    if header[257:263] == b"ustar\0":
        prefix = text(header[345:500])
        return prefix + b"/" + name if prefix else name
    return name


def _metadata(file: Readable, header: bytes) -> bytes:
    size = number(header[124:136], "size")
    if not 0 < size <= METADATA_BYTES_MAX:
        raise ArchiveRejected(f"an extended header of {size} bytes is refused")
    body = _exactly(file, size)
    if any(_exactly(file, -size % BLOCK_BYTES)):
        raise ArchiveRejected("the padding of an extended header is not zero")
    return body


def _verify_checksum(header: bytes) -> None:
    expected = number(header[148:156], "checksum")
    blanked = header[:148] + b" " * 8 + header[156:]
    if expected == sum(blanked):
        return
    # Some old archivers summed signed characters.
    if expected != sum(byte - 256 if byte > 127 else byte for byte in blanked):
        raise ArchiveRejected("a header has a wrong checksum")


def _header(file: Readable, *, may_end: bool) -> bytes:
    """Return the next block; nothing where the file ends and may."""
    first = file.read(BLOCK_BYTES)
    if len(first) == BLOCK_BYTES or (not first and may_end):
        return first
    return first + _exactly(file, BLOCK_BYTES - len(first))


def _expect_end(file: Readable, notes: Notes | None) -> None:
    """Read a second zero block and then zeros only, up to the end of the file."""
    second = _header(file, may_end=True)
    if not second:
        _note_end(notes)
        return
    if second != _ZERO_BLOCK:
        raise ArchiveRejected("a single zero block is not the end of an archive")
    while rest := file.read(CHUNK_BYTES):
        if rest.count(0) != len(rest):
            raise ArchiveRejected("there is data after the end of the archive")


def _note_end(notes: Notes | None) -> None:
    if notes is not None:
        notes.add("the archive has no end marker")


def _exactly(file: Readable, size: int) -> bytes:
    data = file.read(size) if size else b""
    if len(data) == size:
        return data
    parts = [data]
    missing = size - len(data)
    while missing and (data := file.read(missing)):
        parts.append(data)
        missing -= len(data)
    if missing:
        raise ArchiveRejected("the archive is cut off")
    return b"".join(parts)
