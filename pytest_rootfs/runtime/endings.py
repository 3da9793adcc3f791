"""How a command has ended, and the result that a caller gets."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from pytest_rootfs.runtime.client import Conversation, PeerGone
from pytest_rootfs.runtime.protocol import Message
from pytest_rootfs.runtime.records import CommandRecord
from pytest_rootfs.runtime.terms import Agent

KILLED = {"exit": -signal.SIGKILL, "user_s": 0.0, "system_s": 0.0, "max_rss_bytes": 0}
"""How a command has ended that a restart of its container has killed: nothing outlives init."""

MAX_WAIT_S = 1e6
"""Locks and sockets take no time-out of centuries."""

Command = str | Sequence[str | bytes | os.PathLike[str]]
Text = TypeVar("Text", str, bytes)


class CompletedProcess(subprocess.CompletedProcess[Text], Generic[Text]):
    """A finished command: `subprocess.CompletedProcess` with what it cost.

    `duration_s` is wall time; `user_s`, `system_s` and `max_rss_bytes` are those of the command and
    the children it waited for (getrusage(2)), `max_rss_bytes` at least that of the process that
    started it, about 10 MiB. `oom_killed` tells whether the memory limit killed a process
    meanwhile.
    """

    def __init__(
        self,
        args: Command,
        returncode: int,
        stdout: Text | None,
        stderr: Text | None,
        *,
        ending: Ending,
        oom_killed: bool,
    ) -> None:
        super().__init__(args, returncode, stdout, stderr)  # type: ignore[arg-type]  # constrained
        self.duration_s = ending.duration_s
        self.user_s = ending.user_s
        self.system_s = ending.system_s
        self.max_rss_bytes = ending.max_rss_bytes
        self.oom_killed = oom_killed


class Ending:
    """How a command ended, as init reports it."""

    __slots__ = ("duration_s", "max_rss_bytes", "returncode", "system_s", "user_s")

    def __init__(self, message: Message, duration_s: float) -> None:
        self.returncode = int(message["exit"])
        self.user_s = float(message["user_s"])
        self.system_s = float(message["system_s"])
        self.max_rss_bytes = int(message["max_rss_bytes"])
        self.duration_s = duration_s


class ExitNotice:
    """What init says, once, when a command has ended; any thread may wait for it.

    It completes the command's record.
    """

    def __init__(self, conversation: Conversation, agent: Agent, record: CommandRecord) -> None:
        self.ending: Ending | None = None
        self._conversation = conversation
        self._agent = agent
        self._record = record
        self._began = time.monotonic()
        self._receiving = threading.Lock()

    def wait(self, timeout_s: float | None, hear_last_words: Callable[[], None]) -> None:
        """Receive it, unless a thread has; raises TimeoutError, ValueError once it is closed.

        When init is gone, last words are heard; and unless a restart has replaced it, raises
        ContainerDied.
        """
        limit_s = None if timeout_s is None else min(max(timeout_s, 0), MAX_WAIT_S)
        if not self._receiving.acquire(timeout=-1 if limit_s is None else limit_s):
            raise TimeoutError
        try:
            if self.ending is not None:
                return
            self.require_open()
            self._receive(limit_s)
        except BlockingIOError:
            raise TimeoutError from None
        except PeerGone:
            hear_last_words()
            if self._agent.was_replaced:
                self._end(KILLED)
                return
            self._record.returncode = -signal.SIGKILL  # nothing outlives init
            raise self._agent.died() from None
        finally:
            self._receiving.release()

    def look(self) -> None:
        """Take it if it is there; asks nobody and never waits."""
        if self.ending is not None or not self._receiving.acquire(blocking=False):
            return
        try:
            self._receive(0)
            self._record.duration_s = None  # it may have ended long ago
        except PeerGone:
            self._record.returncode = -signal.SIGKILL  # nothing outlives init
        except OSError:
            pass  # it runs, or was closed before it had ended
        finally:
            self._receiving.release()

    def require_open(self) -> None:
        """Raise ValueError once it is closed."""
        if self.fileno() < 0:
            raise ValueError("the process was closed before it had ended")

    def fileno(self) -> int:
        """Return a descriptor that is readable when it is there; -1 once it is closed."""
        return self._conversation.socket.fileno()

    def close(self) -> None:
        """Wait for it no longer. Idempotent."""
        self._conversation.close()

    def _receive(self, limit_s: float | None) -> None:
        message, _ = self._conversation.receive(limit_s)
        self._end(message)

    def _end(self, message: Message) -> None:
        self.ending = Ending(message, time.monotonic() - self._began)
        self._record.returncode = self.ending.returncode
        self._record.duration_s = self.ending.duration_s
