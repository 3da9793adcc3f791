"""Read compressed streams to their very end: gzip and zstd, of many members, or neither.

The content decides, not what a manifest says of it. CPython's decompressors stop after one member
or frame, and a truncated stream is merely short to them: here every member is read, skippable zstd
frames are passed over, and a stream that is cut off, damaged or followed by anything but zeros is
refused. Memory is flat, and what a stream may grow to is bounded.
"""

from __future__ import annotations

import re
import sys
import zlib
from collections.abc import Iterator
from typing import Any, Protocol  # Any: a module of two names

from pytest_rootfs.errors import ArchiveRejected, ImageError
from pytest_rootfs.store.reading import CHUNK_BYTES, Readable

FREE_BYTES = 4 << 30
"""How much any stream may hold, however well it is compressed."""
RATIO_MAX = 1100
"""How often beyond that its compressed bytes; DEFLATE cannot do more than 1032."""

GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", re.DOTALL)
_MAGIC_BYTES = 4


class _Member(Protocol):
    """A decompressor of one gzip member or zstd frame."""

    @property
    def eof(self) -> bool:
        """Tell whether the member has ended."""

    @property
    def unused_data(self) -> bytes:
        """Return what was fed after its end."""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Return up to `max_length` bytes more; what was fed beyond that is kept."""


class _GzipMember:
    """zlib's decompressor, with the manners of the others: it keeps its own unread input."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def unused_data(self) -> bytes:
        return self._inflate.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inflate.decompress(self._inflate.unconsumed_tail + data, max_length)


def kind_of(start: bytes) -> str:
    """Return how a stream that begins so is compressed: `gzip`, `zstd`, or nothing."""
    if start.startswith(GZIP_MAGIC):
        return "gzip"
    return "zstd" if _ZSTD_MAGIC.match(start) else ""


def decompressed(file: Readable, *, what: str) -> Iterator[bytes]:
    """Yield the content of a stream in chunks of at most 256 KiB; `what` names it in errors.

    Raises ArchiveRejected for a damaged, truncated or overgrown stream (beyond 4 GiB and 1100 times
    what is compressed), ImageError when zstd cannot be read here.
    """
    start = _at_least(file, _MAGIC_BYTES)
    kind = kind_of(start)
    if not kind:
        yield from _plain(file, start)
        return
    stream = _Stream(file, start, kind, what)
    size = 0
    for chunk in stream.chunks():
        size += len(chunk)
        allowed = FREE_BYTES + RATIO_MAX * stream.read_bytes
        if size > allowed:
            raise ArchiveRejected(
                f"{what} is refused: its {kind} stream holds more than {allowed} bytes",
                detail=f"{stream.read_bytes} compressed bytes were read so far",
            )
        yield chunk


class Decompressed:
    """A stream that reads as it was before it was compressed, if it was."""

    def __init__(self, file: Readable, *, what: str) -> None:
        self._chunks = decompressed(file, what=what)
        self._pending = b""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes; none at the end. Raises as `decompressed` does."""
        data = self._pending or next(self._chunks, b"")
        self._pending = data[size:]
        return data[:size]


def _plain(file: Readable, start: bytes) -> Iterator[bytes]:
    chunk = start
    while chunk:
        yield chunk
        chunk = file.read(CHUNK_BYTES)


class _Stream:
    """A gzip or zstd stream and where we are in it."""

    def __init__(self, file: Readable, start: bytes, kind: str, what: str) -> None:
        self._file = file
        self._pending = start
        self._kind = kind
        self._what = what
        self.read_bytes = len(start)
        self._new, self._errors = _decompressor(kind, what)

    def chunks(self) -> Iterator[bytes]:
        yield from self._member()
        while self._pending or self._refill():
            if not any(self._pending):
                self._expect_zeros()
                return
            self._pending += self._more(_MAGIC_BYTES - len(self._pending))
            if kind_of(self._pending) != self._kind:
                raise self._refusal("is followed by something else")
            yield from self._member()

    def _member(self) -> Iterator[bytes]:
        member: _Member = self._new()
        data, self._pending = self._pending, b""
        while True:
            try:
                chunk = member.decompress(data, CHUNK_BYTES)
            except self._errors as error:
                raise self._refusal(f"is damaged: {error}") from error
            data = b""
            if chunk:
                yield chunk
            if member.eof:
                self._pending = member.unused_data
                return
            if not chunk:
                if not self._refill():
                    raise self._refusal("is cut off")
                data, self._pending = self._pending, b""

    def _refill(self) -> bool:
        self._pending = self._file.read(CHUNK_BYTES)
        self.read_bytes += len(self._pending)
        return bool(self._pending)

    def _more(self, size: int) -> bytes:
        more = _at_least(self._file, size) if size > 0 else b""
        self.read_bytes += len(more)
        return more

    def _expect_zeros(self) -> None:
        """Read to the end: tapes and disks pad with zeros, and the digest covers them."""
        while self._refill():
            if any(self._pending):
                raise self._refusal("is followed by something else")

    def _refusal(self, why: str) -> ArchiveRejected:
        return ArchiveRejected(f"{self._what} is refused: its {self._kind} stream {why}")


def _decompressor(kind: str, what: str) -> tuple[Any, type[Exception]]:  # Any: see the import
    """Return what makes a decompressor of one member, and the error that it raises."""
    if kind == "gzip":
        return _GzipMember, zlib.error
    zstd = _zstd(what)
    # The window, which has to be kept in memory, is at most 128 MiB unless one asks for more.
    return zstd.ZstdDecompressor, zstd.ZstdError


def _zstd(what: str) -> Any:  # Any: see the import
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd  # noqa: PLC0415  not before 3.14
        else:
            from backports import zstd  # noqa: PLC0415  2 ms, for images that need it
    except ImportError as error:
        raise ImageError(
            f"{what} is compressed with zstd, which this Python cannot read",
            detail=str(error),
            hint="pip install backports.zstd",
        ) from error
    return zstd


def _at_least(file: Readable, size: int) -> bytes:
    """Return `size` bytes or more, fewer at the end of the file."""
    data = b""
    while len(data) < size and (more := file.read(CHUNK_BYTES)):
        data += more
    return data
