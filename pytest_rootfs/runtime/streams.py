"""File objects on descriptors that a container's init has passed out."""

from __future__ import annotations

import codecs
import errno
import io
import os
import select
import stat
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any, cast

from pytest_rootfs.runtime.pumps import Collected

UNFINISHED_BYTES = 4
"""At most so many bytes are a character, or the beginning of one."""

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer


def open_input(fd: int, *, text: bool) -> IO[str] | IO[bytes]:
    """Return the stream that a command reads; it owns the descriptor."""
    # it has the methods of IO[bytes], which typeshed does not say
    binary = cast("IO[bytes]", io.BufferedWriter(io.FileIO(fd, "w")))
    return io.TextIOWrapper(binary, "utf-8", "replace", write_through=True) if text else binary


def open_output(fd: int, heard: Collected, *, text: bool) -> IO[str] | IO[bytes]:
    """Return the stream that a command writes, of a pipe or a terminal; it owns the descriptor."""
    binary = cast("IO[bytes]", io.BufferedReader(OutputReader(fd, heard)))  # as above
    return io.TextIOWrapper(binary, "utf-8", "replace") if text else binary


def left_over(stream: IO[str] | IO[bytes]) -> bytes:
    """Return what a file object of `open_output` has read of the command and given to nobody.

    Nothing can be read from it any more.
    """
    binary = cast(
        "io.BufferedReader", stream.buffer if isinstance(stream, io.TextIOWrapper) else stream
    )
    last = cast("OutputReader", binary.raw).drain()
    rest = stream.read()
    if isinstance(rest, bytes):
        return rest
    raw = rest.encode("utf-8", "replace")
    # what may go on in the next bytes was read as if nothing came
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    decoder.decode(last)
    if unfinished := decoder.getstate()[0]:
        return raw.removesuffix("\ufffd".encode()) + unfinished
    return raw[:-1] + b"\r" if raw.endswith(b"\n") and last.endswith(b"\r") else raw


def read_ready(fd: int, count: int) -> bytes | None:
    """Read at most so many bytes without waiting; None when there are none yet, b"" at the end.

    A terminal that nobody has open any more fails with EIO (tty(4)), where a pipe would end.
    """
    ready = select.poll()
    ready.register(fd, select.POLLIN)
    if not ready.poll(0):
        return None
    try:
        return os.read(fd, count)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return b""


class OutputReader(io.RawIOBase):
    """What a command says on one stream: first what was heard before, then what comes."""

    def __init__(self, fd: int, heard: Collected) -> None:
        self._fd = fd
        self._heard = heard
        self._last = b""
        self._is_drained = False

    def fileno(self) -> int:
        """Return the descriptor."""
        if self.closed:
            raise ValueError("I/O operation on closed file")
        return self._fd

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Read once; 0 at the end. The lock tells others that what comes will be passed on."""
        if self._is_drained:
            return 0
        view = memoryview(buffer).cast("B")
        with self._heard.reading:
            chunk = self._heard.take_first(len(view))
            if not chunk:
                chunk = self._wait_and_read(len(view))
                self._heard.pass_on(chunk)
        view[: len(chunk)] = chunk
        self._last = (self._last + chunk)[-UNFINISHED_BYTES:]
        return len(chunk)

    def drain(self) -> bytes:
        """Read no more, so that the file object gives what it holds; return the last bytes read."""
        self._is_drained = True
        return self._last

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        if not self.closed:
            os.close(self._fd)
        super().close()

    def _wait_and_read(self, count: int) -> bytes:
        try:
            return os.read(self._fd, count)  # waits, unless `communicate` has been at the pipe
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return b""
        ready = select.poll()
        ready.register(self._fd, select.POLLIN)
        ready.poll()
        return read_ready(self._fd, count) or b""


def open_writable(
    fd: int,
    mode: str,
    buffering: int,
    text: tuple[str | None, str | None, str | None],
    no_space: Callable[[OSError], OSError],
) -> IO[Any]:  # Any: text or bytes, as the mode says
    """Return a stream as `open` would, whose writes say by `no_space` that there is no room left.

    `text` holds encoding, errors and newline.
    """
    raw = _LimitedFile(fd, mode.replace("b", "").replace("t", ""), no_space)
    is_binary = "b" in mode
    if buffering == 0:
        if not is_binary:
            raise ValueError("can't have unbuffered text I/O")
        return cast("IO[Any]", raw)  # as above
    size = buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE
    kind = io.BufferedRandom if "+" in mode else io.BufferedWriter
    binary = kind(raw, size)
    if is_binary:
        if any(part is not None for part in text):
            raise ValueError("binary mode takes no encoding, errors or newline argument")
        return cast("IO[Any]", binary)  # as above
    encoding, errors, newline = text
    return io.TextIOWrapper(binary, encoding, errors, newline, line_buffering=buffering == 1)


class _LimitedFile(io.FileIO):
    """A file that names itself when its file system is full: write(2) knows no name.

    A device may say the same of itself, as /dev/full does (full(4)): no limit is to blame for it.
    """

    def __init__(self, fd: int, mode: str, no_space: Callable[[OSError], OSError]) -> None:
        super().__init__(fd, mode)
        self._no_space = no_space

    def write(self, data: ReadableBuffer) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno != errno.ENOSPC or not stat.S_ISREG(os.fstat(self.fileno()).st_mode):
                raise
            raise self._no_space(error) from None
