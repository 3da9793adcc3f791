"""Move the bytes of a command's standard streams, without blocking on any of them."""

from __future__ import annotations

import errno
import os
import select
import socket
import sys

READ_BYTES = 1 << 16
MAX_WAIT_MS = (1 << 31) - 1


class Pump:
    """The pipes of a command between poll(2) calls."""

    def __init__(self, fds: dict[int, int], data: bytes | None) -> None:
        self._poll = select.poll()
        self._number = {fd: number for number, fd in fds.items()}
        self._chunks: dict[int, list[bytes]] = {n: [] for n in fds if n != 0}
        self._data = memoryview(data or b"")
        self._others: set[int] = set()
        self._left_bytes = sys.maxsize
        for number, fd in fds.items():
            os.set_blocking(fd, False)
            self._poll.register(fd, select.POLLOUT if number == 0 else select.POLLIN)
        if 0 in fds and not self._data:
            self._close(fds[0])

    @property
    def has_work(self) -> bool:
        """Tell whether anything is left to wait for."""
        return bool(self._number or self._others) and self._left_bytes > 0

    def watch(self, channel: socket.socket) -> None:
        """Wait for a socket as well."""
        self._others.add(channel.fileno())
        self._poll.register(channel, select.POLLIN)

    def forget(self, fd: int) -> None:
        """Wait for it no longer."""
        self._others.discard(fd)
        self._poll.unregister(fd)

    def turn(self, wait_s: float | None) -> list[int]:
        """Move what can be moved; return the descriptors that were ready."""
        wait_ms = None if wait_s is None else min(wait_s * 1000, MAX_WAIT_MS)
        ready = [fd for fd, _ in self._poll.poll(wait_ms)]
        for fd in ready:
            if self._number.get(fd) == 0:
                self._write(fd)
            elif fd in self._number:
                self._read(fd)
        return ready

    def limit(self, count: int) -> None:
        """Have no more work after that many bytes."""
        self._left_bytes = count

    def stop_input(self) -> None:
        """Give up sending: nobody reads any more."""
        for fd in [fd for fd, number in self._number.items() if number == 0]:
            self._close(fd)

    def open_fds(self) -> dict[int, int]:
        """Return the pipes that have not ended, by number."""
        return {number: fd for fd, number in self._number.items()}

    @property
    def unsent(self) -> bytes:
        """What of the input the command has not taken yet."""
        return bytes(self._data)

    def output(self, number: int) -> bytes | None:
        """Return what was read from a stream; None for one that is not piped."""
        chunks = self._chunks.get(number)
        return None if chunks is None else b"".join(chunks)

    def _write(self, fd: int) -> None:
        try:
            self._data = self._data[os.write(fd, self._data[: 1 << 16]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._close(fd)
            return
        if not self._data:
            self._close(fd)

    def _read(self, fd: int) -> None:
        try:
            chunk = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.EIO:  # a terminal that nobody has open any more; tty(4)
                raise
            chunk = b""
        if chunk:
            self._chunks[self._number[fd]].append(chunk)
            self._left_bytes -= len(chunk)
        else:
            self._close(fd)

    def _close(self, fd: int) -> None:
        self._poll.unregister(fd)
        del self._number[fd]
        os.close(fd)
