"""What a process is told by its caller, and what it needs of its container's init."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pytest_rootfs import settings
from pytest_rootfs.errors import ContainerDied
from pytest_rootfs.runtime.protocol import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How a caller uses a process: text or bytes, and the defaults of `communicate` and `wait`."""

    text: bool = True
    input: bytes | None = None
    timeout_s: float | None = None
    check: bool = False

    def wait_limit(self, timeout: float | None) -> float | None:
        """Return how long to wait; as with `subprocess`, zero and less are a look at once."""
        if timeout is None:
            return self.timeout_s
        is_number = isinstance(timeout, (int, float)) and not isinstance(timeout, bool)
        if not is_number or math.isnan(timeout):
            raise ValueError(f"timeout={timeout!r} is not a number of seconds")
        return timeout


class Agent(Protocol):
    """What a process needs of its container's init."""

    was_replaced: bool
    """Whether a restart has ended it, and every process with it."""

    def ask(self, message: Message, fds: Sequence[int] = ()) -> Message:
        """Return the answer to a call."""

    def died(self) -> ContainerDied:
        """Return why the container is dead."""

    def why_failed(self, returncode: int) -> str:
        """Return which limits have stopped a command that failed; "" for none."""


def deadline_of(limit_s: float | None) -> float | None:
    """Return the moment at which the time is over that begins now."""
    return None if limit_s is None else time.monotonic() + limit_s


def encoded(data: str | bytes) -> bytes:
    """Return input as bytes; raises TypeError for what is neither text nor bytes."""
    if isinstance(data, str):
        return data.encode()
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"input is a text or bytes, not {data!r}")
    return bytes(data)


def signal_number(number: object) -> int:
    """Return the number of a signal; raises ValueError for what is none."""
    if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < signal.NSIG:
        return int(number)
    raise ValueError(f"{number!r} is not a signal: give one such as signal.SIGTERM")


def parse_timeout(timeout: float | None) -> float | None:
    """Return a time limit in seconds; raises ValueError for what is none."""
    return None if timeout is None else settings.parse_seconds("timeout", timeout)
