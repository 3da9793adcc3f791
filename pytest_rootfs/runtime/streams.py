"""File objects on descriptors that a container's init has passed out."""

from __future__ import annotations

import errno
import io
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer


def open_pipe(fd: int, mode: str, *, text: bool, is_terminal: bool) -> IO[str] | IO[bytes]:
    """Return the stream of a pipe, or of one direction of a terminal; it owns the descriptor."""
    if mode == "w":
        # both have the methods of IO[bytes], which typeshed does not say
        binary = cast("IO[bytes]", io.BufferedWriter(io.FileIO(fd, "w")))
    else:
        raw = TerminalReader(fd) if is_terminal else io.FileIO(fd, "r")
        binary = cast("IO[bytes]", io.BufferedReader(raw))  # as above
    if not text:
        return binary
    return io.TextIOWrapper(binary, "utf-8", "replace", write_through=mode == "w")


class TerminalReader(io.RawIOBase):
    """The master side of a terminal, which ends where a pipe would.

    Once nobody has the other side open, reading fails with EIO (tty(4)).
    """

    def __init__(self, fd: int) -> None:
        self._file = io.FileIO(fd, "r")

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._file.fileno()

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        """Read once; 0 at the end."""
        try:
            return self._file.readinto(buffer)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return 0

    def close(self) -> None:
        """Close the descriptor."""
        self._file.close()
        super().close()


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
    """A file that names itself when its file system is full: write(2) knows no name."""

    def __init__(self, fd: int, mode: str, no_space: Callable[[OSError], OSError]) -> None:
        super().__init__(fd, mode)
        self._no_space = no_space

    def write(self, data: ReadableBuffer) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise self._no_space(error) from None
