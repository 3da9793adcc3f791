"""A command that runs in a container: `subprocess`'s names, with figures."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import time
import weakref
from collections.abc import Sequence
from typing import IO, Any

from pytest_rootfs import settings
from pytest_rootfs.errors import CommandFailed, ContainerDied, shown, signal_name
from pytest_rootfs.runtime import protocol, waits
from pytest_rootfs.runtime.client import Conversation
from pytest_rootfs.runtime.endings import Command, Ending, ExitNotice
from pytest_rootfs.runtime.pipes import Pipes
from pytest_rootfs.runtime.protocol import Message
from pytest_rootfs.runtime.pumps import Pump
from pytest_rootfs.runtime.records import TAIL_BYTES, CommandRecord
from pytest_rootfs.runtime.terms import Agent, Terms, deadline_of, signal_number
from pytest_rootfs.runtime.waits import Pattern

HELD_PIPE_GRACE_S = 0.05
"""How long a pipe may be silent, after the command has ended, until a daemon must hold it."""

ENDING_S = 0.5
"""How long a command whose output has ended may take to end itself."""

REST_BYTES = 1 << 20
"""How much is read from the pipes of a command that was killed."""

HELD_PIPE_LIMIT_S = 1.0
HELD_PIPE_BYTES = 16 << 20
"""How long, and how much, is read after the command has ended from a pipe that is not silent."""


class Process:
    """A command under way, like `subprocess.Popen`.

    `pid` is the container's. Streams that were piped are file objects, text or bytes as asked for.
    Leaving the `with` block closes the streams and waits, as `subprocess` does; leaving it by an
    exception kills the command first, so that a failed assertion does not wait for a daemon.
    With `tty=True`, stdin and stdout are the two directions of the terminal.
    """

    def __init__(
        self,
        args: Command,
        started: Message,
        fds: list[int],
        *,
        piped: Sequence[int],
        conversation: Conversation,
        agent: Agent,
        terms: Terms,
        record: CommandRecord,
        is_tty: bool = False,
    ) -> None:
        self.args = args
        self.pid = int(started["pid"])
        self.marker = int(started["marker"])
        self.record = record
        self._terms = terms
        self._notice = ExitNotice(conversation, agent, record)
        self._agent = agent
        self._unsent = terms.input
        pipes = {} if is_tty else dict(zip(piped, fds, strict=True))
        self._pipes = Pipes(pipes, fds[0] if is_tty else None, text=terms.text)
        self._finalizer: weakref.finalize[[Pipes, ExitNotice], Process] | None = None

    @property
    def ending(self) -> Ending | None:
        """How the command has ended, None while nobody has seen it."""
        return self._notice.ending

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; None while nobody has seen it."""
        ending = self._notice.ending
        return None if ending is None else ending.returncode

    @property
    def stdin(self) -> IO[str] | IO[bytes] | None:
        """The stream that the command reads, if it is piped."""
        return self._pipes.stream(0)

    @property
    def stdout(self) -> IO[str] | IO[bytes] | None:
        """The stream that the command writes, if it is piped."""
        return self._pipes.stream(1)

    @property
    def stderr(self) -> IO[str] | IO[bytes] | None:
        """The stream of its complaints, if it is piped."""
        return self._pipes.stream(2)

    @property
    def is_closed(self) -> bool:
        """Tell whether it was closed: then no more can be known of it."""
        return self.fileno() < 0

    @property
    def tty_fd(self) -> int | None:
        """The terminal's master side with `tty=True`; a descriptor that the process owns."""
        return self._pipes.tty_fd

    def poll(self) -> int | None:
        """Return the exit status, or None while the command runs; negative for a signal."""
        if self.returncode is None:
            with contextlib.suppress(TimeoutError):
                self._await_end(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; raises `subprocess.TimeoutExpired` after `timeout` seconds."""
        __tracebackhide__ = True
        limit_s = self._terms.wait_limit(timeout)
        if self.returncode is None:
            with contextlib.suppress(TimeoutError):
                if self._unsent is None:
                    self._await_end(limit_s)
                else:
                    self._pump(self._unsent, deadline_of(limit_s))  # it may wait for its input
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, limit_s or 0.0)
        self._check(self.returncode, None, None)
        return self.returncode

    def communicate(
        self,
        input: str | bytes | None = None,  # noqa: A002  subprocess's name
        timeout: float | None = None,
    ) -> tuple[str | bytes | None, str | bytes | None]:
        """Send input, read both streams to their end, wait; as `subprocess.Popen` does.

        After `subprocess.TimeoutExpired` it may be called again, and nothing is lost. Of a stream
        without end, the first and the last 32 MiB come back.
        """
        __tracebackhide__ = True
        limit_s = self._terms.wait_limit(timeout)
        data = self._unsent if input is None else self._pipes.accept(input)
        if self._pump(data, deadline_of(limit_s)):
            so_far = [self._pipes.so_far(number) for number in (1, 2)]
            raise subprocess.TimeoutExpired(self.args, limit_s or 0.0, *so_far)
        out, err = self.take_output()
        assert self.returncode is not None  # as it is not late
        self._check(self.returncode, out, err)
        return out, err

    def wait_for_output(self, pattern: Pattern, timeout: float = 30) -> re.Match[Any]:
        """Wait until stdout or stderr has a text or a match of a compiled expression; return it.

        What was said before counts, of each stream the last MiB. Nothing is lost by it: `stdout`
        and `communicate` still give all. Raises ContainerError at once when the output has ended
        without it, ContainerDied, and after `timeout` seconds a ContainerError that is a
        TimeoutError.
        """
        __tracebackhide__ = True
        said = waits.SaidText(self, pattern)
        limit_s = settings.parse_seconds("timeout", timeout)
        waits.until([said], limit_s, subject=f"process {self.pid}")
        assert said.match is not None  # as it holds
        return said.match

    def hear(self, wait_s: float) -> bool:
        """Keep what the command says, waiting so long for some; tell whether that was all.

        Raises ContainerDied.
        """
        if not self._pipes.heard:
            raise ValueError("there is no output to wait for: stdout and stderr are sent elsewhere")
        self._pipes.listen(wait_s)
        self._note_output()
        if self._pipes.has_ended and self.returncode is None:
            with contextlib.suppress(TimeoutError, ValueError):
                self._await_end(ENDING_S)
        return self._pipes.has_ended

    def overhear(self) -> None:
        """Keep what the command has said, for the report of a death."""
        self._pipes.listen(0)
        self._note_output()

    def said(self) -> list[bytes]:
        """Return the end of each output stream, read by somebody or not: at most 1 MiB."""
        return self._pipes.said()

    def ended(self) -> str:
        """Say how the command has ended."""
        if self.returncode is None:
            return f"command {shown(self.args)} has closed its output"
        if self.returncode < 0:
            return f"command {shown(self.args)} was killed by {signal_name(-self.returncode)}"
        return f"command {shown(self.args)} ended with exit status {self.returncode}"

    def send_signal(self, number: int) -> None:
        """Send a signal to the command, unless it has ended."""
        checked = signal_number(number)
        if self.poll() is None:
            self._agent.ask({"op": "signal", "pid": self.pid, "signal": checked})

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def kill_tree(self) -> None:
        """Kill the command and everything that it has started; returns when all are dead."""
        self._agent.ask({"op": "kill_tree", "pid": self.pid, "marker": self.marker})

    def resize(self, rows: int, columns: int) -> None:
        """Tell the terminal its size (with `tty=True`)."""
        self._pipes.resize(rows, columns)

    def fileno(self) -> int:
        """Return a descriptor that is readable when the command has ended, for select and poll."""
        return self._notice.fileno()

    def close(self) -> None:
        """Close the streams and the terminal; the command goes on. Idempotent."""
        _close(self._pipes, self._notice)
        if self._finalizer is not None:
            self._finalizer.detach()

    def close_when_dropped(self) -> None:
        """Close the descriptors even if nobody does who has the process.

        No method `__del__`: it would run at the end of each command, and a Ctrl-C in that very
        moment would be lost, as the interpreter can raise nothing there.
        """
        self._finalizer = weakref.finalize(self, _close, self._pipes, self._notice)
        self._finalizer.atexit = False

    def finish(self, data: bytes | None, deadline: float | None) -> bool:
        """Send input, read to the end; return whether the deadline passed.

        Pipes that a daemon still holds are handed to init, which goes on reading them.
        """
        is_late = self._pump(data, deadline)
        if not is_late:
            self._hand_over_held_pipes()
        return is_late

    def finish_killed(self, timeout_s: float) -> None:
        """Wait for the end of a command that was killed, and read what its pipes still hold."""
        with contextlib.suppress(TimeoutError):
            self._await_end(timeout_s)
        pump = Pump(self._pipes.take(), None, self._pipes.heard)
        pump.drain(REST_BYTES)
        self._pipes.give_back(pump.open_fds())
        self._note_output()
        self._hand_over_held_pipes()

    def take_output(self) -> tuple[str | bytes | None, str | bytes | None]:
        """Return what was read of both streams, and forget it; None for one that is not piped."""
        return self._pipes.take_output()

    def note_end(self) -> None:
        """Complete the record if the command has ended; asks nobody and never waits."""
        self._notice.look()

    def __enter__(self) -> Process:
        """Return the process."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close the streams and wait; kill instead if the block has failed: that must be seen."""
        __tracebackhide__ = True
        self._pipes.close_streams()
        try:
            if kind is None:
                self.wait()
        except BaseException:
            self._kill_quietly()
            raise
        else:
            if kind is not None:
                self._kill_quietly()
        finally:
            self.close()

    def __repr__(self) -> str:
        """Show command, pid and state."""
        state = "running" if self.returncode is None else f"returncode {self.returncode}"
        return f"<Process {self.pid} {shown(self.args)} {state}>"

    def _await_end(self, timeout_s: float | None, pump: Pump | None = None) -> None:
        """See how the command ended; raises TimeoutError, or ContainerDied.

        What `pump` still finds in the pipes of a container that has died is its last output.
        """

        def hear_last_words() -> None:
            if pump is not None:
                pump.drain(REST_BYTES)
            self._note_output()

        self._notice.wait(timeout_s, hear_last_words)

    def _pump(self, data: bytes | None, deadline: float | None) -> bool:
        """Move bytes until the command has ended and its pipes are dry, or the deadline passed.

        Returns whether it has passed.
        """
        if self.returncode is None:
            self._notice.require_open()
        fds, data = self._pipes.take_for(data)
        pump = Pump(fds, data, self._pipes.heard)
        if self.returncode is None:
            pump.watch(self.fileno())
        try:
            self._turn(pump, deadline)
        finally:
            self._pipes.give_back(pump.open_fds())
            self._unsent = pump.unsent or None
            self._note_output()
        return self.returncode is None

    def _turn(self, pump: Pump, deadline: float | None) -> None:
        end_fd = self.fileno()
        if self.returncode is not None:
            deadline = time.monotonic() + HELD_PIPE_LIMIT_S
            pump.limit(HELD_PIPE_BYTES)
        while pump.has_work:
            wait_s = None if deadline is None else max(deadline - time.monotonic(), 0)
            if self.returncode is not None:
                wait_s = HELD_PIPE_GRACE_S
            ready = pump.turn(wait_s)
            if end_fd in ready:
                pump.forget(end_fd)
                self._await_end(None, pump)
                pump.stop_input()
                deadline = time.monotonic() + HELD_PIPE_LIMIT_S
                pump.limit(HELD_PIPE_BYTES)
            elif not ready or (deadline is not None and time.monotonic() > deadline):
                break

    def _note_output(self) -> None:
        """Keep the end of what was read for the report."""
        self.record.output_tail = self._pipes.tail(TAIL_BYTES).decode("utf-8", "replace")

    def _check(
        self, returncode: int, stdout: str | bytes | None, stderr: str | bytes | None
    ) -> None:
        __tracebackhide__ = True
        if self._terms.check and returncode:
            reason = self._agent.why_failed(returncode)
            raise CommandFailed(self.args, returncode, stdout=stdout, stderr=stderr, reason=reason)

    def _kill_quietly(self) -> None:
        with contextlib.suppress(ContainerDied):
            self.kill()

    def _hand_over_held_pipes(self) -> None:
        held = list(self._pipes.take().values())
        if held:
            with contextlib.suppress(ContainerDied):
                self._agent.ask({"op": "adopt"}, held)
            protocol.close_all(held)


def _close(pipes: Pipes, notice: ExitNotice) -> None:
    """Close what a process has open; the record knows then how it has ended, if it has."""
    notice.look()
    pipes.close()
    notice.close()
