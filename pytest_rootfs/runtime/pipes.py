"""The standard streams of a command, as the test has them: file objects, or bytes in bulk.

Whatever is read from the command is kept until somebody takes it, by `communicate` or through the
file object, so looking for a text in it loses nothing.
"""

from __future__ import annotations

import contextlib
import os
import select
from typing import IO

from pytest_rootfs.runtime import protocol, streams
from pytest_rootfs.runtime.pumps import READ_BYTES, Collected
from pytest_rootfs.runtime.terms import encoded

END_OF_TRANSMISSION = b"\x04"
"""What a terminal takes for the end of input, at the beginning of a line; termios(3), VEOF."""

MAX_LISTENED_BYTES = 8 << 20
"""How much is read at once from a command that does not stop talking."""


class Pipes:
    """The ends of a command's pipes, or of its terminal, and what was heard on them."""

    def __init__(self, fds: dict[int, int], tty_fd: int | None, *, text: bool) -> None:
        """Own the descriptors of the piped streams by number, or the terminal's master side."""
        self.tty_fd = tty_fd
        self._fds = fds
        self._text = text
        self._streams: dict[int, IO[str] | IO[bytes]] = {}
        numbers = [number for number in fds if number] if tty_fd is None else [1]
        self.heard = {number: Collected() for number in numbers}
        self._ended: set[int] = set()
        self._is_sending = False
        """Whether input was sent: what is left of it goes on, and nothing else."""

    @property
    def has_ended(self) -> bool:
        """Tell whether the end of all output was seen."""
        return self._ended >= self.heard.keys()

    def accept(self, data: str | bytes) -> bytes:
        """Return input as bytes; raises ValueError where it cannot be sent any more, or at all."""
        if self._is_sending:
            raise ValueError("communicate goes on with the input that it was given first")
        stream = self._streams.get(0)
        is_open = 0 in self._fds if stream is None else not stream.closed
        if not is_open and self.tty_fd is None:
            raise ValueError("the command has no stdin to send input to: start it with stdin=PIPE")
        return encoded(data)

    def stream(self, number: int) -> IO[str] | IO[bytes] | None:
        """Return a stream as a file object, None if it is not piped."""
        if number not in self._streams:
            if number in self._fds:
                fd = self._fds.pop(number)
            elif self.tty_fd is not None and number != 2:
                fd = os.dup(self.tty_fd)
            else:
                return None
            if number == 0:
                self._streams[0] = streams.open_input(fd, text=self._text)
            else:
                heard = self.heard[number]
                self._streams[number] = streams.open_output(fd, heard, text=self._text)
        return self._streams[number]

    def listen(self, wait_s: float) -> None:
        """Read what there is of output; wait so long for some if there is none."""
        sources = self._sources()
        ready = select.poll()
        for fd in sources:
            ready.register(fd, select.POLLIN)
        left_bytes = MAX_LISTENED_BYTES
        wait_ms = wait_s * 1000
        while sources and left_bytes > 0 and (events := ready.poll(wait_ms)):
            wait_ms = 0
            for fd, _ in events:
                count = self._read(sources[fd], fd)
                left_bytes -= count
                if count <= 0:
                    ready.unregister(fd)
                    del sources[fd]

    def said(self) -> list[bytes]:
        """Return the end of each output stream, taken by somebody or not."""
        return [heard.said() for _, heard in sorted(self.heard.items())]

    def tail(self, count: int) -> bytes:
        """Return the last bytes of all output, taken by somebody or not."""
        ends = [heard.said(count) for _, heard in sorted(self.heard.items())]
        return b"".join(ends)[-count:]

    def so_far(self, number: int) -> bytes | None:
        """Return what nobody has taken yet of a stream, without taking it."""
        heard = self.heard.get(number)
        return None if heard is None else heard.copy()

    def take_output(self) -> tuple[str | bytes | None, str | bytes | None]:
        """Return what was heard on both streams, and forget it; None for one that is not piped."""
        out, err = (self.heard.get(number) for number in (1, 2))
        return (
            None if out is None else self._decoded(out.take()),
            None if err is None else self._decoded(err.take()),
        )

    def take(self) -> dict[int, int]:
        """Return the descriptors by number; what file objects hold is kept, they are given up."""
        for number, stream in list(self._streams.items()):
            with contextlib.suppress(ValueError, BrokenPipeError):
                stream.flush()
                if number:
                    self.heard[number].put_back(streams.left_over(stream))
                self._fds[number] = os.dup(stream.fileno())
                stream.close()
        self._streams.clear()
        taken, self._fds = self._fds, {}
        return taken

    def take_for(self, data: bytes | None) -> tuple[dict[int, int], bytes | None]:
        """Return the descriptors to move bytes on, and what to send: to a terminal with its end."""
        is_begun = self._is_sending and 0 in self._fds
        self._is_sending = True
        fds = self.take()
        if self.tty_fd is not None:
            if 1 not in fds:
                fds[1] = os.dup(self.tty_fd)
            if data is not None and not is_begun:
                fds[0] = fds[0] if 0 in fds else os.dup(self.tty_fd)
                # the first one ends an unfinished line, and only then one ends the input
                data += END_OF_TRANSMISSION * (1 if not data or data.endswith(b"\n") else 2)
        return fds, data

    def resize(self, rows: int, columns: int) -> None:
        """Tell the terminal its size; raises ValueError where there is none, or for a bad size."""
        import fcntl  # noqa: PLC0415  only terminals need these
        import struct  # noqa: PLC0415
        import termios  # noqa: PLC0415

        if self.tty_fd is None:
            raise ValueError("the process has no terminal: start it with tty=True")
        try:
            size = struct.pack("HHHH", rows, columns, 0, 0)
        except struct.error:
            raise ValueError(
                f"{rows!r} rows and {columns!r} columns are no size: give 0 to 65535"
            ) from None
        fcntl.ioctl(self.tty_fd, termios.TIOCSWINSZ, size)

    def give_back(self, fds: dict[int, int]) -> None:
        """Own descriptors again that were taken; the other streams have ended."""
        self._fds.update(fds)
        self._ended |= self.heard.keys() - fds.keys()

    def close_streams(self) -> None:
        """Close all but the terminal."""
        for stream in self._streams.values():
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        self._streams.clear()
        protocol.close_all(list(self._fds.values()))
        self._fds.clear()
        self._ended |= self.heard.keys()

    def close(self) -> None:
        """Close everything. Idempotent."""
        self.close_streams()
        if self.tty_fd is not None:
            os.close(self.tty_fd)
            self.tty_fd = None

    def _sources(self) -> dict[int, int]:
        """Return the descriptors that output comes from, with their numbers."""
        found = {}
        for number in self.heard.keys() - self._ended:
            stream = self._streams.get(number)
            if stream is not None and stream.closed:
                self._ended.add(number)
            elif stream is not None:
                found[stream.fileno()] = number
            elif number in self._fds:
                found[self._fds[number]] = number
            elif self.tty_fd is not None:
                found[self.tty_fd] = number
        return found

    def _read(self, number: int, fd: int) -> int:
        """Keep what can be read now; 0 when there will be no more of it.

        Another thread that reads the file object has the first claim: it waits with the lock held.
        """
        heard = self.heard[number]
        if not heard.reading.acquire(blocking=False):
            return -1
        try:
            chunk = streams.read_ready(fd, READ_BYTES)
            if chunk is None:
                return -1  # taken by that other thread meanwhile
            heard.add(chunk)
            if not chunk:
                self._ended.add(number)
            return len(chunk)
        finally:
            heard.reading.release()

    def _decoded(self, data: bytearray) -> str | bytes:
        """Return output as the caller wants it: text with universal newlines, or bytes."""
        if not self._text:
            return bytes(data)
        return data.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
