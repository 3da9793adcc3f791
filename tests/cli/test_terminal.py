"""`shell` and `run -it` on a real terminal: a pty on both sides."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from features import needs

from pytest_rootfs import Failure

PROGRAM = [sys.executable, "-m", "pytest_rootfs"]
DEADLINE_S = 30.0

pytestmark = [needs("userns", "subids"), pytest.mark.slow]


class Terminal:
    """A program on a terminal of ours."""

    def __init__(self, words: list[str], *, columns: int = 100) -> None:
        self.fd, self.slave_fd = os.openpty()
        self.resize(30, columns)
        self.settings = termios.tcgetattr(self.slave_fd)
        self.process = subprocess.Popen(
            [*PROGRAM, *words],
            stdin=self.slave_fd,
            stdout=self.slave_fd,
            stderr=self.slave_fd,
            start_new_session=True,
            env={**_environment(), "TERM": "vt220"},
        )
        self.shown = ""

    def type(self, text: str) -> None:
        """Type a text."""
        os.write(self.fd, text.encode())

    def resize(self, rows: int, columns: int) -> None:
        """Give the terminal another size."""
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def expect(self, text: str) -> str:
        """Read until a text is shown; return what was shown with it since the last time."""
        deadline = time.monotonic() + DEADLINE_S
        while text not in self.shown:
            assert time.monotonic() < deadline, f"{text!r} is not in {self.shown!r}"
            if select.select([self.fd], [], [], 0.5)[0]:
                self.shown += os.read(self.fd, 4096).decode(errors="replace")
        seen, _, self.shown = self.shown.partition(text)
        return seen + text

    def wait(self) -> int:
        """Wait for the end, reading all the while."""
        deadline = time.monotonic() + DEADLINE_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.shown
            if select.select([self.fd], [], [], 0.05)[0]:
                self.shown += os.read(self.fd, 4096).decode(errors="replace")
        return self.process.returncode

    def close(self) -> None:
        """End the program and the terminal."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.fd)
        os.close(self.slave_fd)


def _environment() -> dict[str, str]:
    """Return ours without what would overrule the terminal's own size."""
    return {name: text for name, text in os.environ.items() if name not in ("COLUMNS", "LINES")}


@contextmanager
def terminal(*words: str, columns: int = 100) -> Iterator[Terminal]:
    opened = Terminal(list(words), columns=columns)
    try:
        yield opened
    finally:
        opened.close()


def test_shell_on_a_terminal(failed: Failure) -> None:
    with terminal("shell", "last") as screen:
        greeting = screen.expect(f"({failed.id})")
        assert failed.nodeid in greeting
        screen.type("tty && id -un && pwd && echo $TERM-done\n")
        seen = screen.expect("vt220-done")
        assert "/dev/pts/" in seen
        assert "nobody" in seen
        assert "/srv" in seen
        screen.type("exit 9\n")
        assert screen.wait() == 9
        assert termios.tcgetattr(screen.slave_fd) == screen.settings


def test_shell_of_the_host_on_a_terminal(failed: Failure) -> None:
    with terminal("shell", "last", "--shell", "bash") as screen:
        screen.expect(f"({failed.id})")
        screen.type("tty && pwd && cat 'new dir/new.txt'; echo $FROM_MARK-$0\n")
        seen = screen.expect("2-/.pytest-rootfs/bash")
        assert "/dev/pts/" in seen
        assert "second without end" in seen
        screen.type("touch /.pytest-rootfs/bash; exit 3\n")
        screen.expect("exit")
        assert screen.wait() == 3


def test_terminal_size_follows(failed: Failure) -> None:
    with terminal("exec", "last", "sh") as screen:
        screen.type("stty size\n")
        screen.expect("30 100")
        screen.resize(40, 120)
        os.killpg(screen.process.pid, signal.SIGWINCH)  # the kernel tells the foreground group
        screen.type("while [ \"$(stty size)\" != '40 120' ]; do :; done; echo grown-up\n")
        screen.expect("grown-up\r\n")
        screen.type("exit\n")
        assert screen.wait() == 0


def test_interrupt_reaches_the_command_only(failed: Failure) -> None:
    with terminal("shell", "last") as screen:
        screen.expect(f"({failed.id})")
        # what tells that it has begun is what gets the interrupt: it becomes sleep
        screen.type("sh -c 'echo begun-$((1+1)); exec sleep 1000'\n")
        screen.expect("begun-2")
        screen.type("\x03")
        screen.type("echo status-$?\n")
        screen.expect("status-130")
        screen.type("exit\n")
        screen.wait()


def test_large_paste_arrives_whole(failed: Failure) -> None:
    command = "stty raw -echo; echo go; head -c 100000 | wc -c; sleep 0"
    with terminal("exec", "last", "--", "sh", "-c", command) as screen:
        screen.expect("go")
        for _ in range(100):
            screen.type("x" * 1000)
        screen.expect("100000")
        assert screen.wait() == 0


def test_terminated_relay_restores_the_terminal(failed: Failure) -> None:
    with terminal("exec", "last", "sleep", "1000") as screen:
        deadline = time.monotonic() + DEADLINE_S
        while termios.tcgetattr(screen.slave_fd) == screen.settings:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        screen.process.send_signal(signal.SIGTERM)
        assert screen.wait() == 128 + signal.SIGTERM
        assert termios.tcgetattr(screen.slave_fd) == screen.settings


def test_run_gives_a_terminal_when_asked() -> None:
    with terminal("run", "-it", "minimal", "--", "tty") as screen:
        screen.expect("/dev/pts/0")
        assert screen.wait() == 0
    with terminal("run", "minimal", "--", "sh", "-c", "tty; test -t 0") as screen:
        screen.expect("not a tty")
        assert screen.wait() == 1


@pytest.mark.parametrize(("columns", "is_table"), [(20, False), (100, True)])
def test_narrow_terminal_gets_no_table(failed: Failure, columns: int, *, is_table: bool) -> None:
    with terminal("ls", "last", "/srv", columns=columns) as screen:
        seen = screen.expect("script")
        assert screen.wait() == 0

    assert ("\u2500" * 20 in seen) == is_table
    assert "app.conf" in seen
    assert "-rw-r--r--" in seen


@pytest.mark.parametrize("without_colour", [False, True])
def test_diff_has_colours_unless_unwanted(
    failed: Failure, monkeypatch: pytest.MonkeyPatch, *, without_colour: bool
) -> None:
    if without_colour:
        monkeypatch.setenv("NO_COLOR", "1")
    else:
        monkeypatch.delenv("NO_COLOR", raising=False)

    with terminal("diff", "last", "/srv/app.conf") as screen:
        seen = screen.expect("fifty")

    assert ("\x1b[32m+line " in seen) != without_colour
    assert ("\x1b" in seen) != without_colour
