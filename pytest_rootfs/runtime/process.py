"""A command that runs in a container: `subprocess`'s names, with figures."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import IO, Generic, Protocol, TypeVar, cast

from pytest_rootfs.errors import ContainerDied
from pytest_rootfs.runtime import protocol
from pytest_rootfs.runtime.client import Conversation, PeerGone
from pytest_rootfs.runtime.protocol import Message
from pytest_rootfs.runtime.pumps import Pump

Command = str | Sequence[str | os.PathLike[str]]
Text = TypeVar("Text", str, bytes)

END_OF_TRANSMISSION = b"\x04"
"""What a terminal takes for the end of input, at the beginning of a line; termios(3), VEOF."""

HELD_PIPE_GRACE_S = 0.05
"""How long a pipe may be silent, after the command has ended, until a daemon must hold it."""

HELD_PIPE_LIMIT_S = 1.0
HELD_PIPE_BYTES = 16 << 20
"""How long, and how much, is read after the command has ended from a pipe that is not silent."""


class CompletedProcess(subprocess.CompletedProcess[Text], Generic[Text]):
    """A finished command: `subprocess.CompletedProcess` with what it cost.

    `duration_s` is wall time; `user_s`, `system_s` and `max_rss_bytes` are those of the command and
    the children it waited for (getrusage(2)); `oom_killed` tells whether the memory limit killed a
    process meanwhile.
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


class Agent(Protocol):
    """What a process needs of its container's init."""

    def ask(self, message: Message, fds: Sequence[int] = ()) -> Message:
        """Return the answer to a call."""

    def died(self) -> ContainerDied:
        """Return why the container is dead."""


class Process:
    """A command under way, like `subprocess.Popen`.

    `pid` is the container's. Streams that were piped are file objects, text or bytes as asked for.
    Leaving the `with` block closes the streams and waits, as `subprocess` does; leaving it by an
    exception kills the command first, so that a failed assertion does not wait for a daemon.
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
        text: bool,
        is_tty: bool = False,
    ) -> None:
        self.args = args
        self.pid = int(started["pid"])
        self.marker = int(started["marker"])
        self.returncode: int | None = None
        self.ending: Ending | None = None
        self.tty_fd: int | None = fds[0] if is_tty else None
        """The terminal's master side with `tty=True`; a descriptor that the process owns."""
        self._text = text
        self._conversation = conversation
        self._agent = agent
        self._began = time.monotonic()
        self._ending_lock = threading.Lock()
        self._fds = {} if is_tty else dict(zip(piped, fds, strict=True))
        self._streams: dict[int, IO[str] | IO[bytes]] = {}
        self._unsent = b""
        self._heard: tuple[bytes | None, bytes | None] = (None, None)

    @property
    def stdin(self) -> IO[str] | IO[bytes] | None:
        """The stream that the command reads, if it is piped."""
        return self._stream(0, "w")

    @property
    def stdout(self) -> IO[str] | IO[bytes] | None:
        """The stream that the command writes, if it is piped."""
        return self._stream(1, "r")

    @property
    def stderr(self) -> IO[str] | IO[bytes] | None:
        """The stream of its complaints, if it is piped."""
        return self._stream(2, "r")

    def poll(self) -> int | None:
        """Return the exit status, or None while the command runs; negative for a signal."""
        if self.returncode is None:
            with contextlib.suppress(TimeoutError, BlockingIOError):
                self._take_ending(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; raises `subprocess.TimeoutExpired` after `timeout` seconds."""
        if self.returncode is None:
            try:
                self._take_ending(timeout)
            except TimeoutError:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0) from None
        assert self.returncode is not None  # _take_ending sets it or raises
        return self.returncode

    def communicate(
        self,
        input: str | bytes | None = None,  # noqa: A002  subprocess's name
        timeout: float | None = None,
    ) -> tuple[str | bytes | None, str | bytes | None]:
        """Send input, read both streams to their end, wait; as `subprocess.Popen` does.

        After `subprocess.TimeoutExpired` it may be called again, and nothing is lost.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        data = _encoded(input) if input is not None else self._unsent
        out, err, is_late = self._pump(data, deadline)
        out, err = joined(self._heard[0], out), joined(self._heard[1], err)
        if is_late:
            self._heard = out, err
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0, out, err)
        return self.decoded(out), self.decoded(err)

    def send_signal(self, number: int) -> None:
        """Send a signal to the command, unless it has ended."""
        if self.poll() is None:
            self._agent.ask({"op": "signal", "pid": self.pid, "signal": int(number)})

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
        import fcntl  # noqa: PLC0415  only terminals need these
        import struct  # noqa: PLC0415
        import termios  # noqa: PLC0415

        if self.tty_fd is None:
            raise ValueError("the process has no terminal: start it with tty=True")
        fcntl.ioctl(self.tty_fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def fileno(self) -> int:
        """Return a descriptor that is readable when the command has ended, for select and poll."""
        return self._conversation.socket.fileno()

    def close(self) -> None:
        """Close the streams and the terminal; the command goes on. Idempotent."""
        self._close_streams()
        if self.tty_fd is not None:
            os.close(self.tty_fd)
            self.tty_fd = None
        self._conversation.close()

    def finish(
        self, data: bytes | None, deadline: float | None
    ) -> tuple[bytes | None, bytes | None, bool]:
        """Send input, read to the end; return both outputs and whether the deadline passed.

        Pipes that a daemon still holds are handed to init, which goes on reading them.
        """
        if self.tty_fd is not None and 1 not in self._fds and self.returncode is None:
            self._fds[1] = os.dup(self.tty_fd)
            if data is not None:
                self._fds[0] = os.dup(self.tty_fd)
                # the first one ends an unfinished line, and only then one ends the input
                data += END_OF_TRANSMISSION * (1 if not data or data.endswith(b"\n") else 2)
        out, err, is_late = self._pump(data, deadline)
        if not is_late:
            self._hand_over_held_pipes()
        return out, err, is_late

    def __enter__(self) -> Process:
        """Return the process."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close the streams and wait; kill instead if the block has failed: that must be seen."""
        self._close_streams()
        if kind is None:
            self.wait()
        else:
            with contextlib.suppress(ContainerDied):
                self.kill()
        self.close()

    def __del__(self) -> None:
        """Close descriptors of a process that nobody closed."""
        with contextlib.suppress(Exception):
            self.close()

    def decoded(self, data: bytes | None) -> str | bytes | None:
        """Return output as the caller wants it: text with universal newlines, or bytes."""
        if data is None or not self._text:
            return data
        return data.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")

    def _stream(self, number: int, mode: str) -> IO[str] | IO[bytes] | None:
        if number not in self._streams and number in self._fds:
            raw = io.FileIO(self._fds.pop(number), mode, closefd=True)
            if mode == "w":
                binary: IO[bytes] = cast("IO[bytes]", io.BufferedWriter(raw))  # same methods
            else:
                binary = cast("IO[bytes]", io.BufferedReader(raw))  # same methods
            self._streams[number] = (
                io.TextIOWrapper(binary, "utf-8", "replace", write_through=mode == "w")
                if self._text
                else binary
            )
        return self._streams.get(number)

    def _close_streams(self) -> None:
        for stream in self._streams.values():
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        self._streams.clear()
        protocol.close_all(list(self._fds.values()))
        self._fds.clear()

    def _take_ending(self, timeout_s: float | None) -> None:
        """Receive how the command ended, unless another thread has; raises TimeoutError."""
        if not self._ending_lock.acquire(timeout=-1 if timeout_s is None else timeout_s):
            raise TimeoutError
        try:
            if self.returncode is not None:
                return
            if self._conversation.socket.fileno() < 0:
                raise ValueError("the process was closed before it had ended")
            message, _ = self._conversation.receive(timeout_s)
            self.ending = Ending(message, time.monotonic() - self._began)
            self.returncode = self.ending.returncode
        except PeerGone:
            raise self._agent.died() from None
        finally:
            self._ending_lock.release()

    def _pump(
        self, data: bytes | None, deadline: float | None
    ) -> tuple[bytes | None, bytes | None, bool]:
        """Move bytes until the command has ended and its pipes are dry, or the deadline passed."""
        pump = Pump(self._take_pipes(), data)
        if self.returncode is None:
            pump.watch(self._conversation.socket)
        try:
            self._turn(pump, deadline)
        finally:
            self._fds.update(pump.open_fds())
            self._unsent = pump.unsent
        is_late = self.returncode is None
        return pump.output(1), pump.output(2), is_late

    def _turn(self, pump: Pump, deadline: float | None) -> None:
        while pump.has_work:
            wait_s = None if deadline is None else max(deadline - time.monotonic(), 0)
            if self.returncode is not None:
                wait_s = HELD_PIPE_GRACE_S
            ready = pump.turn(wait_s)
            if self._conversation.socket.fileno() in ready:
                pump.forget(self._conversation.socket.fileno())
                self._take_ending(None)
                pump.stop_input()
                deadline = time.monotonic() + HELD_PIPE_LIMIT_S
                pump.limit(HELD_PIPE_BYTES)
            elif not ready or (deadline is not None and time.monotonic() > deadline):
                break

    def _take_pipes(self) -> dict[int, int]:
        """Return the descriptors of the streams, whose buffers are given up."""
        for number, stream in list(self._streams.items()):
            with contextlib.suppress(ValueError, BrokenPipeError):
                stream.flush()
                self._fds[number] = os.dup(stream.fileno())
                stream.close()
        self._streams.clear()
        taken, self._fds = self._fds, {}
        return taken

    def _hand_over_held_pipes(self) -> None:
        held = list(self._fds.values())
        self._fds.clear()
        if held:
            with contextlib.suppress(ContainerDied):
                self._agent.ask({"op": "adopt"}, held)
            protocol.close_all(held)


def _encoded(data: str | bytes | None) -> bytes | None:
    return data.encode() if isinstance(data, str) else data


def joined(first: bytes | None, second: bytes | None) -> bytes | None:
    """Return both parts of an output, which is None where there is no pipe."""
    return second if first is None else first + (second or b"")
