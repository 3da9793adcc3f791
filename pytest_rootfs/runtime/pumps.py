"""Move the bytes of a command's standard streams, without blocking on any of them."""

from __future__ import annotations

import errno
import os
import select
import sys
import threading
from collections import deque
from collections.abc import Mapping

READ_BYTES = 1 << 16
MAX_WAIT_MS = (1 << 31) - 1

OUTPUT_BYTES = 64 << 20
"""How much of a stream is kept: from more, the first and the last half."""

SAID_BYTES = 1 << 20
"""How much of what was said is remembered, though somebody has taken it."""


class Collected:
    """What a command has said on one stream and nobody has taken, or the two ends of it."""

    def __init__(self) -> None:
        self.reading = threading.Lock()
        """Held by who reads from the stream bit by bit, until it is added here or passed on."""
        self._taken = bytearray()
        self._head = bytearray()
        self._tail: deque[bytearray] = deque()
        self._tail_bytes = 0
        self._left_out_bytes = 0

    def add(self, chunk: bytes) -> None:
        """Keep a chunk, in the place of the oldest one of the second half if need be."""
        if len(self._head) < OUTPUT_BYTES // 2:
            self._head += chunk
            return
        if self._tail and len(self._tail[-1]) < READ_BYTES:
            self._tail[-1] += chunk  # a terminal gives single lines
        else:
            self._tail.append(bytearray(chunk))
        self._tail_bytes += len(chunk)
        while self._tail_bytes > OUTPUT_BYTES // 2:
            oldest = self._tail.popleft()
            self._tail_bytes -= len(oldest)
            self._left_out_bytes += len(oldest)

    def take(self) -> bytearray:
        """Return what was kept, and forget it; a line says how much is missing."""
        taken, tail = self._head, self._tail
        if self._left_out_bytes:
            taken += b"\n[... %d bytes left out ...]\n" % self._left_out_bytes
        while tail:
            taken += tail.popleft()  # one by one: memory never holds the half twice
        self._head = bytearray()
        self._tail_bytes = self._left_out_bytes = 0
        self.pass_on(taken[-SAID_BYTES:])
        return taken

    def take_first(self, count: int) -> bytes:
        """Return at most so many of the first bytes that were kept, and forget them."""
        if self._tail:
            tail, self._taken = self._taken, bytearray()
            whole = self.take()
            self._head, self._taken = whole, tail
        first = bytes(self._head[:count])
        del self._head[:count]
        self.pass_on(first)
        return first

    def put_back(self, chunk: bytes) -> None:
        """Keep again, as the first, what was passed on and nobody has looked at."""
        self._head[:0] = chunk
        if chunk and self._taken.endswith(chunk):
            del self._taken[-len(chunk) :]

    def pass_on(self, chunk: bytes | bytearray) -> None:
        """Remember, for `said`, what a reader gets."""
        self._taken += chunk
        if len(self._taken) > 2 * SAID_BYTES:
            del self._taken[:-SAID_BYTES]

    def said(self, count: int = SAID_BYTES) -> bytes:
        """Return the end of all that was said, taken or not."""
        return b"".join((self._taken[-count:], self.last(count)))[-count:]

    def copy(self) -> bytes:
        """Return what was kept so far, without the line about what is missing."""
        return b"".join((self._head, *self._tail))

    def last(self, count: int) -> bytes:
        """Return the last bytes."""
        end = b""
        for part in (*reversed(self._tail), self._head):
            end = bytes(part[-count:]) + end
            if len(end) >= count:
                break
        return end[-count:]


class Pump:
    """The pipes of a command between poll(2) calls."""

    def __init__(
        self, fds: dict[int, int], data: bytes | None, sinks: Mapping[int, Collected]
    ) -> None:
        self._poll = select.poll()
        self._number = {fd: number for number, fd in fds.items()}
        self._sinks = sinks
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

    def watch(self, fd: int) -> None:
        """Wait for a descriptor as well, until it can be read."""
        self._others.add(fd)
        self._poll.register(fd, select.POLLIN)

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

    def drain(self, count: int) -> None:
        """Read what the pipes hold and no more; at most so many bytes."""
        self.stop_input()
        self.limit(count)
        while self._number and self.has_work and self.turn(0):
            pass  # each turn reads

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
            self._sinks[self._number[fd]].add(chunk)
            self._left_bytes -= len(chunk)
        else:
            self._close(fd)

    def _close(self, fd: int) -> None:
        self._poll.unregister(fd)
        del self._number[fd]
        os.close(fd)
