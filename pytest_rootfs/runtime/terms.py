"""What a process is told by its caller, and what it needs of its container's init."""

from __future__ import annotations

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


def encoded(data: str | bytes) -> bytes:
    """Return input as bytes; raises TypeError for what is neither text nor bytes."""
    if isinstance(data, str):
        return data.encode()
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise TypeError(f"input is a text or bytes, not {data!r}")
    return bytes(data)


def parse_timeout(timeout: float | None) -> float | None:
    """Return a time limit in seconds; raises ValueError for what is none."""
    return None if timeout is None else settings.parse_seconds("timeout", timeout)
