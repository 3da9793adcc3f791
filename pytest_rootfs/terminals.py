"""Connect a command in a container to this terminal, or to whatever standard input is.

On a terminal the command gets one of its own (a pty in the container); this one is put into raw
mode and every byte relayed, so line editing, Ctrl-C and full-screen programs work. Otherwise the
command inherits our three standard streams.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import subprocess
import sys
import termios
import time
import tty
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_rootfs.errors import (
    CommandNotExecutable,
    CommandNotFound,
    ContainerDied,
    RootfsError,
    shown,
)

if TYPE_CHECKING:
    from pytest_rootfs.runtime.container import Container
    from pytest_rootfs.runtime.process import Process

TIMED_OUT = 124
"""The status of timeout(1) for a command that took too long."""
_CHUNK_BYTES = 65536
_SHELLS = ("/bin/bash", "/bin/sh", "/usr/bin/bash", "/usr/bin/sh", "/bin/ash", "/busybox/sh")
_READABLE = "its files can be read without one: pytest-rootfs ls, cat, cp, diff"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A command, and what differs from the container's own user, folder and environment.

    Without `with_input` it reads nothing; `with_tty` needs standard input to be a terminal.
    """

    command: str | Sequence[str]
    user: str | None = None
    cwd: str | None = None
    env: Mapping[str, str] | None = None
    timeout_s: float | None = None
    with_input: bool = True
    with_tty: bool = False


def interact(container: Container, task: Task) -> int:
    """Run a command with our standard streams and return its status as a shell counts it.

    128 + N for signal N, 127 for a missing program, 126 for one that cannot be executed, 124 for
    a time limit. Our terminal is restored at the end, whatever happens.
    """
    try:
        return (_relay_terminal if task.with_tty else _pass_streams)(container, task)
    except (CommandNotFound, CommandNotExecutable) as error:
        _report(str(error))
        return error.returncode
    except subprocess.TimeoutExpired:
        _report(f"{shown(task.command)} did not end within {task.timeout_s:g} s and was killed")
        return TIMED_OUT
    except ContainerDied as error:
        _report(str(error))
        return 128 + signal.SIGKILL


def find_shell(container: Container, *, hint: str = _READABLE) -> str:
    """Return the container's shell; raises `RootfsError` with the way out when there is none."""
    for shell in _SHELLS:
        path = container.path(shell)
        if path.is_file() and path.stat().st_mode & 0o111:
            return shell
    raise RootfsError(
        f"image {container.built.name} has no shell: it has none of {', '.join(_SHELLS)}",
        hint=hint,
    )


def prompt_environment(label: str) -> dict[str, str]:
    """Return variables that make a shell's prompt name a failure.

    bash runs PROMPT_COMMAND after its start files, which may set another prompt; others read PS1.
    """
    prompt = f"({label}) $PWD "
    return {
        "PS1": prompt + "$ ",
        "PROMPT_COMMAND": rf"PS1='({label}) \w \$ '; unset PROMPT_COMMAND",
    }


def status_of(returncode: int) -> int:
    """Return a status as a shell counts it: 128 + N for signal N."""
    return 128 - returncode if returncode < 0 else returncode


def _pass_streams(container: Container, task: Task) -> int:
    """Let the command have our own streams; signals that we get are for the command."""
    sys.stdout.flush()
    with contextlib.ExitStack() as stack:
        stdin_fd = 0
        if not task.with_input:
            stdin_fd = os.open(os.devnull, os.O_RDONLY)
            stack.callback(os.close, stdin_fd)
        signals = stack.enter_context(_Signals(signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
        process = container.popen(
            task.command,
            user=task.user,
            cwd=task.cwd,
            env=task.env,
            stdin=stdin_fd,
            stdout=1,
            stderr=2,
        )
        stack.callback(process.close)
        while process.poll() is None:
            signals.wait(task, [process.fileno()])
            for number in signals.take():
                process.send_signal(number)
        return status_of(process.wait())


def _relay_terminal(container: Container, task: Task) -> int:
    """Give the command a terminal of its own and relay what is typed and shown."""
    with contextlib.ExitStack() as stack:
        signals = stack.enter_context(_Signals(signal.SIGWINCH, signal.SIGTERM, signal.SIGHUP))
        process = container.popen(
            task.command, user=task.user, cwd=task.cwd, env=task.env, tty=True
        )
        stack.callback(process.close)
        stack.enter_context(_raw_mode(0))
        _follow_size(process)
        _relay(process, signals, task)
        return status_of(process.wait())


def _relay(process: Process, signals: _Signals, task: Task) -> None:
    """Copy bytes both ways until the command has ended and its output is read.

    Processes that the command left behind may hold the terminal open: they are not waited for.
    """
    tty_fd, end_fd = process.tty_fd, process.fileno()
    if tty_fd is None:
        raise ValueError("the process has no terminal")
    os.set_blocking(tty_fd, False)  # a large paste must not block while output waits to be read
    typed = b""
    sources = [0, tty_fd, end_fd]
    while True:
        ready = signals.wait(task, sources, [tty_fd] if typed else [])
        for number in signals.take():
            if number != signal.SIGWINCH:
                raise SystemExit(128 + number)
            _follow_size(process)
        if tty_fd in ready:
            output = _read(tty_fd)
            if output == b"":
                return
            _write_all(1, output or b"")
        elif end_fd in ready:
            return
        if 0 in ready:
            typed += (new := os.read(0, _CHUNK_BYTES))
            if not new:
                sources.remove(0)
        if typed:
            with contextlib.suppress(BlockingIOError):
                typed = typed[os.write(tty_fd, typed) :]


def _follow_size(process: Process) -> None:
    size = os.get_terminal_size(0)
    process.resize(size.lines, size.columns)


def _read(tty_fd: int) -> bytes | None:
    """Return output, b"" at its end, None if there is none now."""
    try:
        return os.read(tty_fd, _CHUNK_BYTES)
    except BlockingIOError:
        return None  # ready for writing only
    except OSError as error:
        if error.errno != errno.EIO:  # how Linux says that the other side is closed
            raise
        return b""


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


@contextlib.contextmanager
def _raw_mode(fd: int) -> Iterator[None]:
    """Put a terminal into raw mode, and back at the end."""
    before = termios.tcgetattr(fd)
    try:
        tty.setraw(fd, termios.TCSADRAIN)  # the default throws away what was typed ahead
        yield
    finally:
        with contextlib.suppress(termios.error):  # the terminal may be gone
            termios.tcsetattr(fd, termios.TCSADRAIN, before)


class _Signals:
    """Signals noted for the loop that waits, instead of handled where they come.

    A handler that talks to the container would do so in the midst of another conversation.
    """

    def __init__(self, *numbers: int) -> None:
        self._numbers = numbers
        self._began = time.monotonic()

    def __enter__(self) -> _Signals:
        """Note from now on."""
        self._read_fd, self._write_fd = os.pipe()
        for fd in (self._read_fd, self._write_fd):
            os.set_blocking(fd, False)
        self._handlers = {each: signal.signal(each, lambda *_: None) for each in self._numbers}
        self._wakeup_fd = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        """Handle signals as before."""
        signal.set_wakeup_fd(self._wakeup_fd)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        os.close(self._read_fd)
        os.close(self._write_fd)

    def wait(self, task: Task, sources: Sequence[int], sinks: Sequence[int] = ()) -> set[int]:
        """Wait for descriptors or a signal; raises TimeoutExpired when the task's time is over."""
        remaining_s = None
        if task.timeout_s is not None:
            remaining_s = max(self._began + task.timeout_s - time.monotonic(), 0)
        readable, writable, _ = select.select([self._read_fd, *sources], sinks, [], remaining_s)
        if not readable and not writable:
            raise subprocess.TimeoutExpired(task.command, task.timeout_s or 0)
        return {*readable, *writable}

    def take(self) -> list[int]:
        """Return the numbers of the signals that came."""
        try:
            return [number for number in os.read(self._read_fd, 256) if number in self._numbers]
        except BlockingIOError:
            return []


def _report(text: str) -> None:
    print(f"error: {text}", file=sys.stderr)
