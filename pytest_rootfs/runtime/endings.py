"""How a command has ended, and the result that a caller gets."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from typing import Generic, TypeVar

from pytest_rootfs.runtime.protocol import Message

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
