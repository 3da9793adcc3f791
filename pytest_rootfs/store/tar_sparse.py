"""Understand sparse files in archives, in the four ways that GNU tar has written them.

Old GNU: a map in the header and in blocks after it. Pax 0.0: repeated records; 0.1: one record;
1.0: text in front of the data ("Storing Sparse Files", GNU tar manual). Our own layers have none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from pytest_rootfs.errors import ArchiveRejected
from pytest_rootfs.store.entries import BLOCK_BYTES
from pytest_rootfs.store.tar_fields import SPARSE_KEYS, number, whole_number

SEGMENTS_MAX = 1 << 17
PREFIX = b"GNU.sparse."
_OLD_SLOT = 24
_DIGITS_MAX = 20

Segments = Sequence[tuple[int, int]]
"""Offset and length of each piece of data; the rest of the file is holes."""


class Bytes(Protocol):
    """Gives exactly as many bytes as are asked for, or refuses the archive."""

    def __call__(self, size: int, /) -> bytes:
        """Return `size` bytes."""


def old_map(header: bytes, read: Bytes) -> tuple[Segments, int]:
    """Return the segments and the real size of an entry of type `S`; reads its extra blocks."""
    found = _slots(header[386:482])
    goes_on = header[482]
    while goes_on:
        block = read(BLOCK_BYTES)
        found += _slots(block[:504])
        goes_on = block[504]
        if len(found) > SEGMENTS_MAX:
            raise ArchiveRejected(f"a sparse file of more than {SEGMENTS_MAX} pieces is refused")
    return found, number(header[483:495], "real size")


def record_map(records: Mapping[bytes, bytes], read: Bytes) -> tuple[Segments, int]:
    """Return the segments and the real size that pax records tell.

    `read` reads the entry's data, which of version 1.0 begins with the map.
    """
    version = records.get(PREFIX + b"major", b"0"), records.get(PREFIX + b"minor", b"")
    if version == (b"1", b"0"):
        return _text_map(read), _size(records, b"realsize")
    if version[0] != b"0":
        raise ArchiveRejected("its sparse format is not known")
    if PREFIX + b"map" in records:
        return _pairs(records[PREFIX + b"map"].split(b",")), _size(records, b"size")
    offsets, lengths = (records.get(key, b"") for key in SPARSE_KEYS)
    if offsets.count(b",") != lengths.count(b","):
        raise ArchiveRejected("the map of a sparse file is not made of pairs")
    pairs = zip(offsets.split(b","), lengths.split(b","), strict=True)
    numbers = [each for pair in pairs for each in pair]
    return _pairs(numbers if offsets else []), _size(records, b"size")


def checked(segments: Segments, *, stored: int, real: int) -> Segments:
    """Return a map whose pieces are in order, inside the file, and exactly what is stored."""
    at = 0
    for offset, length in segments:
        if offset < at or length < 0:
            raise ArchiveRejected("the map of a sparse file is not in order")
        at = offset + length
    if at > real or sum(length for _, length in segments) != stored:
        raise ArchiveRejected("the map of a sparse file does not fit its size")
    return segments


def _slots(field: bytes) -> list[tuple[int, int]]:
    found = []
    for at in range(0, len(field), _OLD_SLOT):
        if field[at] == 0:
            break
        offset, length = field[at : at + 12], field[at + 12 : at + 24]
        found.append((number(offset, "offset"), number(length, "length")))
    return found


def _size(records: Mapping[bytes, bytes], name: bytes) -> int:
    return whole_number(records.get(PREFIX + name, b""), "real size")


def _pairs(numbers: Sequence[bytes]) -> Segments:
    values = [whole_number(each, "sparse map") for each in numbers]
    if len(values) % 2:
        raise ArchiveRejected("the map of a sparse file is not made of pairs")
    return list(zip(values[::2], values[1::2], strict=True))


def _text_map(read: Bytes) -> Segments:
    """Read the map in front of the data: lines of decimal numbers, padded to whole blocks."""
    lines: list[bytes] = []
    rest = b""
    wanted = 1
    while len(lines) < wanted:
        *complete, rest = (rest + read(BLOCK_BYTES)).split(b"\n")
        lines += complete
        if len(rest) > _DIGITS_MAX and len(lines) < wanted:
            raise ArchiveRejected("the map of a sparse file is not made of numbers")
        if lines:
            wanted = 1 + 2 * whole_number(lines[0], "number of pieces")
        if wanted > 1 + 2 * SEGMENTS_MAX:
            raise ArchiveRejected(f"a sparse file of more than {SEGMENTS_MAX} pieces is refused")
    return _pairs(lines[1:wanted])
