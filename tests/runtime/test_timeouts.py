"""A command that takes too long dies with all that it started; everything else lives."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from polling import wait_until

from pytest_rootfs.errors import CommandTimeout, ContainerError
from pytest_rootfs.runtime.client import Conversation
from pytest_rootfs.runtime.container import Container
from pytest_rootfs.runtime.pumps import OUTPUT_BYTES

if TYPE_CHECKING:
    from conftest import Start


MIB = 1 << 20


def running(container: Container) -> list[str]:
    return [" ".join(entry["argv"]) for entry in container.processes()]


def test_late_command_raises_with_its_output(container: Container) -> None:
    began = time.monotonic()
    with pytest.raises(CommandTimeout) as late:
        container.run("echo out; echo err >&2; sleep 100", timeout=0.1)

    error = late.value
    assert isinstance(error, TimeoutError)
    assert isinstance(error, subprocess.TimeoutExpired)
    assert isinstance(error, ContainerError)
    assert [error.timeout, error.stdout, error.stderr] == [0.1, "out\n", "err\n"]
    assert "did not end within 0.1 s and was killed" in str(error)
    assert time.monotonic() - began < 2


def test_output_of_bytes_stays_bytes(container: Container) -> None:
    with pytest.raises(CommandTimeout) as late:
        container.run(["sh", "-c", "printf '\\377'; sleep 100"], text=False, timeout=0.1)

    assert late.value.output == b"\xff"


def test_whole_tree_is_dead(container: Container) -> None:
    tree = "sleep 101 & (sleep 102 & sleep 103) & sh -c 'sleep 104 & wait' & wait"
    with pytest.raises(CommandTimeout):
        container.run(tree, timeout=0.2)

    assert running(container) == []


def test_daemon_of_the_late_command_is_dead(container: Container) -> None:
    daemon = "setsid sh -c 'setsid sleep 100 >/dev/null 2>&1 &'; sleep 101"
    with pytest.raises(CommandTimeout):
        container.run(["bash", "-c", daemon], timeout=0.3)

    assert running(container) == []


def test_stopped_processes_are_dead(container: Container) -> None:
    with pytest.raises(CommandTimeout):
        container.run("kill -STOP $$", timeout=0.1)

    assert running(container) == []


def test_earlier_daemons_live_on(container: Container) -> None:
    container.run("sleep 100 >/dev/null 2>&1 &")
    with pytest.raises(CommandTimeout):
        container.run(["sleep", "101"], timeout=0.1)

    assert running(container) == ["sleep 100"]


def test_commands_alongside_live_on(container: Container) -> None:
    with container.popen(["cat"], stdin=subprocess.PIPE) as other:
        with pytest.raises(CommandTimeout):
            container.run(["sleep", "101"], timeout=0.1)

        assert other.poll() is None


def test_container_stays_usable(container: Container) -> None:
    with pytest.raises(CommandTimeout):
        container.run(["sleep", "100"], timeout=0.05)

    assert container.run(["echo", "alive"]).stdout == "alive\n"


def test_fork_bomb_is_dead(container: Container) -> None:
    with pytest.raises(CommandTimeout):
        container.run("f() { while :; do sleep 100 & sleep 0.01; done; }; f & f", timeout=0.2)

    assert running(container) == []


def test_unread_input_cannot_hang(container: Container) -> None:
    with pytest.raises(CommandTimeout):
        container.run(["sleep", "100"], input="x" * 1_000_000, timeout=0.1)


def test_endless_output_cannot_hang(container: Container) -> None:
    with pytest.raises(CommandTimeout) as late:
        container.run(["yes"], timeout=0.2, text=False)

    assert late.value.output.startswith(b"y\ny\n")


def test_timeout_of_the_container_is_the_default(start: Start) -> None:
    container = start(timeout=0.1)

    with pytest.raises(CommandTimeout, match=r"within 0\.1 s"):
        container.run(["sleep", "100"])


def test_timeout_of_the_call_wins(start: Start) -> None:
    container = start(timeout=0.01)

    assert container.run("sleep 0.1; echo done", timeout=10).stdout == "done\n"


@pytest.mark.parametrize("value", [0, -1, float("nan"), "soon"])
def test_bad_timeout_is_refused(container: Container, value: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        container.run(["true"], timeout=value)


def test_timeout_is_among_the_limits_hit(container: Container) -> None:
    with pytest.raises(CommandTimeout):
        container.run(["sleep", "100"], timeout=0.05)

    assert container.commands[-1].timed_out
    assert "timeout: `sleep 100` was killed after" in container.limits_hit()[-1]


def test_interrupted_call_kills_its_command(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pytest_rootfs.runtime.process.Process._await_end", interrupt)
        with pytest.raises(KeyboardInterrupt):
            container.run("sleep 100 & sleep 0.05")

    assert running(container) == []


@pytest.mark.slow
@pytest.mark.parametrize("text", [True, False])
def test_flood_of_output_ends_in_time(container: Container, *, text: bool) -> None:
    began = time.monotonic()
    with pytest.raises(CommandTimeout) as late:
        container.run(["yes"], timeout=1, text=text)
    took_s = time.monotonic() - began

    assert took_s < 3  # 1.2 s on an idle machine
    assert len(late.value.output) < OUTPUT_BYTES + MIB  # whole chunks are kept
    assert len(str(late.value)) < 1000


@pytest.mark.parametrize("timeout", [1e300, 1e12])
def test_time_of_centuries_is_no_limit(container: Container, timeout: float) -> None:
    with container.popen(["true"]) as process:
        assert process.wait(timeout) == 0
    assert container.run(["true"], timeout=timeout).returncode == 0


def test_call_interrupted_while_it_starts_kills_its_command(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive = Conversation.receive

    def interrupt(*_: object) -> None:
        monkeypatch.setattr(Conversation, "receive", receive)
        raise KeyboardInterrupt

    monkeypatch.setattr(Conversation, "receive", interrupt)
    with pytest.raises(KeyboardInterrupt):
        container.run("sleep 60 & sleep 60")

    assert running(container) == []


def test_command_of_which_nobody_hears_is_killed(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    os.kill(container.pid, signal.SIGSTOP)
    with monkeypatch.context() as patch:
        patch.setattr(Conversation, "receive", interrupt)
        with pytest.raises(KeyboardInterrupt):
            container.run(["sleep", "60"])
    os.kill(container.pid, signal.SIGCONT)

    wait_until(lambda: running(container) == [])
