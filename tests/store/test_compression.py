"""Compressed streams: every member is read, and nothing but whole ones."""

from __future__ import annotations

import gzip
import io
import sys

import pytest

from pytest_rootfs.errors import ArchiveRejected, ImageError
from pytest_rootfs.store.compression import CHUNK_BYTES, RATIO_MAX, decompressed

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

GZIP = gzip.compress(b"one" * 1000, mtime=0)
ZSTD = zstd.compress(b"one" * 1000)
SKIPPABLE = b"\x5a\x2a\x4d\x18\x05\x00\x00\x00zzzzz"


def shown(value: object) -> str:
    """Name a case by its length: the bytes differ from one zlib to the next."""
    return f"{len(value)}B" if isinstance(value, bytes) else ""


def read(stream: bytes) -> bytes:
    return b"".join(decompressed(io.BytesIO(stream), what="layer x"))


@pytest.mark.parametrize(
    ("stream", "content"),
    [
        (b"", b""),
        (b"ab", b"ab"),
        (b"plain text", b"plain text"),
        (GZIP, b"one" * 1000),
        (GZIP + gzip.compress(b"", mtime=0) + GZIP, b"one" * 2000),
        (GZIP + bytes(3000), b"one" * 1000),
        (ZSTD, b"one" * 1000),
        (ZSTD + SKIPPABLE + ZSTD, b"one" * 2000),
        (SKIPPABLE + ZSTD + SKIPPABLE, b"one" * 1000),
        (ZSTD + bytes(1), b"one" * 1000),
    ],
    ids=shown,
)
def test_L69_whole_stream_is_read(stream: bytes, content: bytes) -> None:
    assert read(stream) == content


@pytest.mark.parametrize("piece", [1, 2, 3, 7])
@pytest.mark.parametrize("member", [GZIP, ZSTD + SKIPPABLE], ids=shown)
def test_L69_members_split_anywhere(piece: int, member: bytes) -> None:
    class Dribble(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(piece, size or 0))

    found = b"".join(decompressed(Dribble(member * 2 + bytes(9)), what="layer x"))

    assert found == b"one" * 2000


@pytest.mark.parametrize("stream", [GZIP, ZSTD, SKIPPABLE], ids=shown)
def test_H31_every_truncation_is_refused(stream: bytes) -> None:
    for length in range(4, len(stream)):
        with pytest.raises(ArchiveRejected, match=r"layer x is refused: its .* is cut off"):
            read(stream[:length])


@pytest.mark.parametrize(
    "stream",
    [GZIP + b"x", GZIP + ZSTD, ZSTD + GZIP, GZIP + bytes(600) + b"x", ZSTD + b"\x28\xb5\x2f"],
    ids=shown,
)
def test_H31_what_follows_is_refused(stream: bytes) -> None:
    with pytest.raises(ArchiveRejected, match="is followed by something else"):
        read(stream)


@pytest.mark.parametrize(
    "stream", [GZIP[:-8] + b"\0\0\0\0" + GZIP[-4:], ZSTD[:8] + b"\xff" * 20], ids=shown
)
def test_H31_damaged_stream_is_refused(stream: bytes) -> None:
    with pytest.raises(ArchiveRejected, match="is damaged"):
        read(stream)


def test_H23_huge_window_is_refused() -> None:
    window = zstd.CompressionParameter.window_log
    stream = zstd.ZstdCompressor(options={window: 30})
    frame = stream.compress(b"x" * 5000) + stream.flush()

    with pytest.raises(ArchiveRejected, match=r"is damaged: .*requires too much memory"):
        read(frame)


def test_H22_bomb_stops_by_its_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_rootfs.store.compression.FREE_BYTES", 1 << 20)
    assert len(read(gzip.compress(bytes(20 << 20)))) == 20 << 20  # zlib cannot do a bomb's ratio

    bomb = zstd.compress(bytes(20 << 20))
    out = io.BytesIO()
    with pytest.raises(ArchiveRejected, match="its zstd stream holds more than"):
        out.writelines(decompressed(io.BytesIO(bomb), what="layer x"))

    assert out.tell() <= (1 << 20) + RATIO_MAX * len(bomb) + CHUNK_BYTES


def test_missing_zstd_tells_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    package = "compression" if sys.version_info >= (3, 14) else "backports"
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(ImageError, match="which this Python cannot read") as refused:
        read(ZSTD)

    assert refused.value.hint == "pip install backports.zstd"
