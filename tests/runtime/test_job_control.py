"""A terminal's control characters, and the jobs of a shell on it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest
from polling import wait_until

from pytest_rootfs.runtime.container import Container
from pytest_rootfs.runtime.process import Process

CTRL_C, CTRL_Z, CTRL_BACKSLASH = "\x03", "\x1a", "\x1c"
PROMPT = "ready> "


def type_in(process: Process, keys: str) -> None:
    stdin: Any = process.stdin  # Any: a text stream
    stdin.write(keys)
    stdin.flush()


def state_of(container: Container, *argv: str) -> str:
    """Return the state of the process with these words, "" when there is none."""
    found = [each["state"] for each in container.processes() if each["argv"] == [*argv]]
    return found[0] if found else ""


@pytest.fixture
def shell(container: Container) -> Iterator[Process]:
    """Give an interactive shell on a terminal, at its first prompt."""
    with container.popen(["sh", "-i"], tty=True, env={"PS1": PROMPT}) as process:
        process.wait_for_output(PROMPT)
        yield process
        process.kill()


@pytest.mark.parametrize(
    ("key", "number"), [(CTRL_C, signal.SIGINT), (CTRL_BACKSLASH, signal.SIGQUIT)]
)
def test_key_ends_the_command_by_its_signal(
    container: Container, key: str, number: signal.Signals
) -> None:
    with container.popen(["sleep", "100"], tty=True) as process:
        type_in(process, key)

        assert process.wait(10) == -number


def test_ctrl_c_is_caught_by_a_trap(container: Container) -> None:
    script = "trap 'exit 7' INT; echo set; while :; do sleep 0.01; done"
    with container.popen(script, tty=True) as process:
        process.wait_for_output("set")
        type_in(process, CTRL_C)

        assert process.wait(10) == 7


def test_ctrl_c_ends_the_job_and_not_its_shell(container: Container, shell: Process) -> None:
    type_in(shell, "sleep 100\n")
    wait_until(lambda: state_of(container, "sleep", "100"))

    type_in(shell, CTRL_C)
    wait_until(lambda: not state_of(container, "sleep", "100"))
    type_in(shell, "echo $((40 + 2))\nexit 5\n")

    shell.wait_for_output("42")
    assert shell.wait(10) == 5


def test_ctrl_z_stops_the_job_until_it_is_continued(container: Container, shell: Process) -> None:
    type_in(shell, "sleep 100\n")
    wait_until(lambda: state_of(container, "sleep", "100") == "S")

    type_in(shell, CTRL_Z)
    wait_until(lambda: state_of(container, "sleep", "100") == "T")
    type_in(shell, "fg\n")
    wait_until(lambda: state_of(container, "sleep", "100") == "S")

    type_in(shell, CTRL_C)
    wait_until(lambda: not state_of(container, "sleep", "100"))
    type_in(shell, "exit 0\n")
    assert shell.wait(10) == 0


def test_background_job_is_stopped_at_its_first_read(container: Container, shell: Process) -> None:
    type_in(shell, "cat &\n")

    wait_until(lambda: state_of(container, "cat") == "T")  # by SIGTTIN


def test_closed_terminal_hangs_up(container: Container) -> None:
    script = "trap 'echo > /tmp/hung-up; exit' HUP; echo set; while :; do sleep 0.01; done"
    process = container.popen(script, tty=True)
    process.wait_for_output("set")

    process.close()

    container.wait_for(path="/tmp/hung-up")
