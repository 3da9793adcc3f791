"""Wait for a command that `run` has started, and say how it ended."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Any

from pytest_rootfs.errors import CommandFailed, CommandTimeout, ContainerError, shown
from pytest_rootfs.runtime.client import CALL_TIMEOUT_S, StepFailed
from pytest_rootfs.runtime.endings import CompletedProcess, Ending
from pytest_rootfs.runtime.process import Process


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A command that has ended, and its output as the caller wants it."""

    args: Any  # Any: the command, a text or a sequence, as it was given
    ending: Ending
    stdout: Any  # Any: text or bytes
    stderr: Any  # Any: as above

    def failed(self, reason: str) -> CommandFailed:
        """Return the error for a status that is not zero."""
        return CommandFailed(
            self.args, self.ending.returncode, stdout=self.stdout, stderr=self.stderr, reason=reason
        )

    def completed(self, *, oom_killed: bool) -> CompletedProcess[Any]:  # Any: text or bytes
        """Return the result."""
        return CompletedProcess(
            self.args,
            self.ending.returncode,
            self.stdout,
            self.stderr,
            ending=self.ending,
            oom_killed=oom_killed,
        )


def finish(process: Process, data: bytes | None, limit_s: float) -> Outcome:
    """Send input, collect output, wait.

    Raises CommandTimeout after `limit_s` seconds. Then, and when this is interrupted, the command
    and everything that it has started are dead.
    """
    __tracebackhide__ = True
    try:
        is_late = process.finish(data, time.monotonic() + limit_s)
        if is_late:
            _kill(process)
            process.finish_killed(CALL_TIMEOUT_S)
    except BaseException:
        with contextlib.suppress(ContainerError, OSError):
            process.kill_tree()  # Ctrl-C, say: nothing goes on behind the test's back
        raise
    ending = process.ending
    if ending is None:
        raise _unkillable(process)
    process.record.timed_out = is_late
    out, err = process.take_output()
    if is_late:
        raise CommandTimeout(process.args, limit_s, stdout=out, stderr=err)
    return Outcome(args=process.args, ending=ending, stdout=out, stderr=err)


def _kill(process: Process) -> None:
    try:
        process.kill_tree()
    except StepFailed as error:
        raise _unkillable(process) from error


def _unkillable(process: Process) -> ContainerError:
    return ContainerError(
        f"command {shown(process.args)} cannot be killed: it ignores even SIGKILL",
        hint="close the container: a file system or a device that it waits for may be stuck",
    )
