"""A stream is written and digested whole, whatever its size, and its errors are told."""

from __future__ import annotations

import hashlib
import io
import threading

import pytest

from pytest_rootfs.store.sinks import BLOCK_BYTES, Sink


class FullDisk(io.BytesIO):
    """Takes one block."""

    def write(self, data: object) -> int:  # type: ignore[override]  # of what buffers it is given
        """Refuse what comes after it."""
        if self.tell() >= BLOCK_BYTES:
            raise OSError(28, "No space left on device")
        return super().write(data)  # type: ignore[arg-type]  # likewise


@pytest.mark.parametrize("sizes", [[], [5], [BLOCK_BYTES], [700_000] * 20, [1] * 1000])
def test_bytes_and_digest_are_those_of_the_stream(sizes: list[int]) -> None:
    out = io.BytesIO()
    sink = Sink(out)
    chunks = [bytes([number % 251]) * size for number, size in enumerate(sizes)]

    for chunk in chunks:
        sink.write(chunk)
    digest = sink.finish()

    assert out.getvalue() == b"".join(chunks)
    assert digest == hashlib.sha256(b"".join(chunks)).hexdigest()
    assert sink.size == sum(sizes)


def test_full_disk_ends_the_writing() -> None:
    sink = Sink(FullDisk())

    def write_for_ever() -> None:
        while True:
            sink.write(bytes(BLOCK_BYTES))

    with pytest.raises(OSError, match="No space left"):
        write_for_ever()
    with pytest.raises(OSError, match="No space left"):
        sink.finish()


def test_given_up_sink_leaves_no_thread() -> None:
    before = threading.active_count()
    sink = Sink(io.BytesIO())
    sink.write(bytes(BLOCK_BYTES))

    sink.close()
    sink.close()

    assert threading.active_count() == before
