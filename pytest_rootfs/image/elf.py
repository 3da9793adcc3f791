"""Read from an ELF file what decides its libraries: interpreter, needed names, search paths.

Only program headers and the dynamic section are read, so stripped files are fine (gabi, "Program
Loading and Dynamic Linking"). Nothing is executed. Malformed files raise `ValueError`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

MAGIC = b"\x7fELF"
PT_LOAD, PT_DYNAMIC, PT_INTERP = 1, 2, 3
DT_NEEDED, DT_STRTAB, DT_RPATH, DT_RUNPATH = 1, 5, 15, 29
MAX_HEADERS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Linkage:
    """Tell how a program is linked; a static one has neither interpreter nor needed libraries.

    `search` holds the contents of DT_RPATH and DT_RUNPATH.
    """

    interpreter: str = ""
    needed: tuple[str, ...] = ()
    search: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Segment:
    kind: int
    offset: int
    address: int
    size: int


class _Elf:
    def __init__(self, data: bytes) -> None:
        if data[:4] != MAGIC or len(data) < 52:
            raise ValueError("it is not an ELF file")
        if data[4] not in (1, 2) or data[5] not in (1, 2):
            raise ValueError("its ELF class or byte order is unknown")
        self._data = data
        self._is_64 = data[4] == 2
        self._order = "<" if data[5] == 1 else ">"
        self.segments = tuple(self._read_segments())

    def _unpack(self, layout: str, offset: int) -> tuple[int, ...]:
        try:
            return struct.unpack_from(self._order + layout, self._data, offset)
        except (struct.error, OverflowError) as error:  # an offset above what an index may be
            raise ValueError("its headers point outside the file") from error

    def _read_segments(self) -> Iterator[_Segment]:
        (table,) = self._unpack("Q" if self._is_64 else "I", 32 if self._is_64 else 28)
        size, count = self._unpack("HH", 54 if self._is_64 else 42)
        if count > MAX_HEADERS:
            raise ValueError(f"it has {count} program headers")
        for start in range(table, table + size * count, size or 1):
            if self._is_64:
                kind, _, offset, address, _, file_size = self._unpack("IIQQQQ", start)
            else:
                kind, offset, address, _, file_size = self._unpack("IIIII", start)
            yield _Segment(kind=kind, offset=offset, address=address, size=file_size)

    def bytes_of(self, segment: _Segment) -> bytes:
        return self._data[segment.offset : segment.offset + segment.size]

    def dynamic(self, segment: _Segment) -> list[tuple[int, int]]:
        layout, step = ("qQ", 16) if self._is_64 else ("iI", 8)
        pairs: list[tuple[int, int]] = []
        for start in range(segment.offset, segment.offset + segment.size - step + 1, step):
            tag, value = self._unpack(layout, start)
            if tag == 0:
                break
            pairs.append((tag, value))
        return pairs

    def string_at(self, address: int) -> str:
        for segment in self.segments:
            if segment.kind == PT_LOAD and 0 <= address - segment.address < segment.size:
                start = segment.offset + address - segment.address
                end = self._data.find(b"\0", start)
                if end >= 0:
                    return self._data[start:end].decode(errors="surrogateescape")
        raise ValueError("its string table points outside the file")


def is_elf(data: bytes) -> bool:
    """Tell whether the first bytes are those of an ELF file."""
    return data[:4] == MAGIC


def read_linkage(data: bytes) -> Linkage:
    """Return how the program or library in `data` is linked."""
    elf = _Elf(data)
    interpreter = ""
    needed: list[str] = []
    search: list[str] = []
    for segment in elf.segments:
        if segment.kind == PT_INTERP:
            interpreter = elf.bytes_of(segment).split(b"\0")[0].decode(errors="surrogateescape")
        if segment.kind == PT_DYNAMIC:
            pairs = elf.dynamic(segment)
            strings = dict(pairs).get(DT_STRTAB, 0)
            needed += [elf.string_at(strings + value) for tag, value in pairs if tag == DT_NEEDED]
            search += [
                elf.string_at(strings + value)
                for tag, value in pairs
                if tag in (DT_RPATH, DT_RUNPATH)
            ]
    return Linkage(interpreter=interpreter, needed=tuple(needed), search=tuple(search))
