"""`Container.popen`: a command under way has the names of `subprocess.Popen`."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from typing import IO, Any

import pytest
from polling import wait_until

from pytest_rootfs.errors import CommandFailed, CommandNotFound, ContainerDied
from pytest_rootfs.runtime.container import Container

MIB = 1 << 20


def opened(stream: IO[Any] | None) -> IO[Any]:
    assert stream is not None
    return stream


def test_streams_talk_to_the_command(container: Container) -> None:
    with container.popen(["cat"], stdin=subprocess.PIPE) as process:
        opened(process.stdin).write("hello\n")
        opened(process.stdin).flush()

        assert opened(process.stdout).readline() == "hello\n"


def test_bytes_streams(container: Container) -> None:
    with container.popen(["cat"], stdin=subprocess.PIPE, text=False) as process:
        opened(process.stdin).write(b"\xff\n")
        opened(process.stdin).flush()

        assert opened(process.stdout).readline() == b"\xff\n"


def test_stdin_is_no_pipe_unless_asked_for(container: Container) -> None:
    with container.popen(["true"]) as process:
        assert process.stdin is None


def test_thrown_away_stream_is_none(container: Container) -> None:
    with container.popen(["echo"], stdout=subprocess.DEVNULL, stderr=None) as process:
        assert (process.stdout, process.stderr) == (None, None)


def test_running_command_has_no_status(container: Container) -> None:
    with container.popen(["cat"], stdin=subprocess.PIPE) as process:
        assert process.poll() is None
        assert process.returncode is None


def test_wait_returns_the_status(container: Container) -> None:
    with container.popen("exit 5") as process:
        assert process.wait(timeout=10) == 5
        assert (process.returncode, process.poll(), process.wait()) == (5, 5, 5)


def test_wait_has_a_time_limit(container: Container) -> None:
    with container.popen(["cat"], stdin=subprocess.PIPE) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.01)

        assert process.poll() is None


def test_communicate_sends_and_reads_all(container: Container) -> None:
    with container.popen("cat; echo err >&2", stdin=subprocess.PIPE) as process:
        output = process.communicate("in" * 100_000)

    assert output == ("in" * 100_000, "err\n")
    assert process.returncode == 0


def test_communicate_loses_nothing_at_its_time_limit(container: Container) -> None:
    command = "echo one; >/tmp/said; until [ -e /tmp/go ]; do :; done; wc -c; echo two >&2"
    with container.popen(command, stdin=subprocess.PIPE) as process:
        wait_until(container.path("/tmp/said").exists)
        with pytest.raises(subprocess.TimeoutExpired) as late:
            process.communicate("x" * MIB, timeout=0.05)
        container.path("/tmp/go").touch()
        output = process.communicate()

    assert late.value.output == b"one\n"
    assert output == (f"one\n{MIB}\n", "two\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGUSR1])
def test_signal_ends_the_command(container: Container, number: signal.Signals) -> None:
    with container.popen(["sleep", "100"]) as process:
        process.send_signal(number)

        assert process.wait(10) == -number


def test_terminate_and_kill_are_signals(container: Container) -> None:
    with container.popen(["sleep", "100"]) as first, container.popen(["sleep", "100"]) as second:
        first.terminate()
        second.kill()

        assert (first.wait(10), second.wait(10)) == (-signal.SIGTERM, -signal.SIGKILL)


def test_signal_after_the_end_is_nothing(container: Container) -> None:
    with container.popen(["true"]) as process:
        process.wait(10)

        process.send_signal(signal.SIGTERM)

        assert process.poll() == 0


def test_handler_runs_on_signal(container: Container) -> None:
    handler = "trap 'echo caught; exit 4' TERM; echo ready; while :; do :; done"
    with container.popen(handler) as process:
        assert opened(process.stdout).readline() == "ready\n"
        process.terminate()

        assert opened(process.stdout).read() == "caught\n"
        assert process.wait(10) == 4


def test_pid_is_the_containers(container: Container) -> None:
    with container.popen(["cat"], stdin=subprocess.PIPE) as process:
        found = {entry["pid"]: entry["argv"] for entry in container.processes()}

        assert found[process.pid] == ["cat"]


def test_ctrl_c_signal_is_not_ignored(container: Container) -> None:
    with container.popen(["sleep", "100"]) as process:
        process.send_signal(signal.SIGINT)

        assert process.wait(10) == -signal.SIGINT


def test_broken_pipe_kills_as_everywhere(container: Container) -> None:
    process = container.popen(["yes"])
    opened(process.stdout).close()

    assert process.wait(10) == -signal.SIGPIPE
    process.close()


def test_unread_pipe_stops_the_command_not_the_container(container: Container) -> None:
    with container.popen(["yes"]) as process:
        assert container.run(["echo", "alive"]).stdout == "alive\n"
        process.kill()


def test_end_of_the_block_waits(container: Container) -> None:
    with container.popen("read line; touch /tmp/done", stdin=subprocess.PIPE) as process:
        pass  # closing stdin ends it

    assert process.returncode == 0
    assert container.path("/tmp/done").exists()


def test_close_lets_the_command_go_on(container: Container) -> None:
    process = container.popen(["sleep", "100"])
    process.close()

    assert [entry["argv"] for entry in container.processes()] == [["sleep", "100"]]


def test_missing_program(container: Container) -> None:
    with pytest.raises(CommandNotFound):
        container.popen(["nonesuch"])


def test_command_dies_with_its_container(container: Container) -> None:
    process = container.popen(["sleep", "100"])
    container.kill()

    with pytest.raises(ContainerDied, match="was killed by the test"):
        process.wait(10)
    process.close()


def test_terminal_is_shared_by_the_streams(container: Container) -> None:
    done = container.run("test -t 0 && test -t 1 && test -t 2 && stty size", tty=True)

    assert done.stdout == "24 80\n"


def test_terminal_shows_both_streams(container: Container) -> None:
    assert container.run("echo out; echo err >&2", tty=True).stdout == "out\nerr\n"


def test_terminal_is_the_controlling_one(container: Container) -> None:
    assert container.run("echo hello >/dev/tty", tty=True).stdout == "hello\n"


def test_terminal_can_be_resized(container: Container) -> None:
    process = container.popen("read line; stty size", tty=True)
    with process:
        assert process.tty_fd is not None
        process.resize(50, 120)
        os.write(process.tty_fd, b"\n")
        shown = b""
        while not shown.endswith(b"120\r\n"):  # a terminal gives a line at a time
            shown += os.read(process.tty_fd, 100)
        process.wait(10)

        assert shown == b"\r\n50 120\r\n"


def test_process_without_terminal_cannot_be_resized(container: Container) -> None:
    with (
        container.popen(["true"]) as process,
        pytest.raises(ValueError, match="no terminal"),
    ):
        process.resize(1, 1)


def test_end_is_recorded_without_being_asked(container: Container) -> None:
    process = container.popen("exit 4")
    select.select([process], [], [], 10)

    assert container.commands[-1].returncode == 4
    process.close()


def test_record_has_the_output(container: Container) -> None:
    with container.popen("echo out; echo err >&2") as process:
        process.communicate()

    record = container.commands[-1]
    assert (record.returncode, record.output_tail) == (0, "out\nerr\n")


def test_running_command_is_recorded_as_such(container: Container) -> None:
    with container.popen(["cat"], stdin=subprocess.PIPE):
        assert container.commands[-1].returncode is None


def test_input_of_the_call_is_sent(container: Container) -> None:
    with container.popen(["cat"], input="hello") as process:
        assert process.communicate() == ("hello", "")


def test_timeout_of_the_call_is_the_default(container: Container) -> None:
    process = container.popen(["sleep", "100"], timeout=0.05)

    with pytest.raises(subprocess.TimeoutExpired):
        process.wait()
    with pytest.raises(subprocess.TimeoutExpired):
        process.communicate()
    process.kill()
    process.close()


def test_checked_command_raises_when_it_fails(container: Container) -> None:
    with pytest.raises(CommandFailed) as failure, container.popen("exit 3", check=True) as process:
        process.communicate()

    assert failure.value.returncode == 3


def test_repr_tells_command_and_state(container: Container) -> None:
    with container.popen(["cat"], stdin=subprocess.PIPE) as process:
        running = repr(process)

    assert running == f"<Process {process.pid} `cat` running>"
    assert repr(process) == f"<Process {process.pid} `cat` returncode 0>"


def test_stream_that_is_no_pipe_gives_none(container: Container) -> None:
    with container.popen("echo out", stderr=subprocess.DEVNULL) as process:
        assert process.communicate() == ("out\n", None)


def test_terminal_has_streams(container: Container) -> None:
    with container.popen("stty -echo; echo ready; read x; echo got $x", tty=True) as process:
        assert opened(process.stdout).readline() == "ready\n"
        opened(process.stdin).write("it\n")
        opened(process.stdin).flush()

        assert opened(process.stdout).read() == "got it\n"


def test_terminal_communicates(container: Container) -> None:
    with container.popen("stty -echo; cat; echo done", tty=True, input="in\n") as process:
        shown, nothing = process.communicate()

    assert nothing is None
    assert str(shown).endswith("in\ndone\n")


def test_terminal_cannot_be_sent_elsewhere(container: Container) -> None:
    with pytest.raises(ValueError, match="tty=True"):
        container.popen(["true"], tty=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("size", [5, 3 * MIB])
def test_input_reaches_who_is_not_communicated_with(container: Container, size: int) -> None:
    with container.popen(["wc", "-c"], input="x" * size) as read:
        shown = opened(read.stdout).read()
    with container.popen(f"test $(wc -c) = {size}", input="x" * size) as waited:
        status = waited.wait(10)

    assert (int(shown), status) == (size, 0)


def test_waiting_types_the_input_of_a_terminal(container: Container) -> None:
    with container.popen("read word; test $word = hello", tty=True, input="hello\n") as process:
        assert process.wait(10) == 0


@pytest.mark.parametrize("text", [True, False])
def test_communicate_gives_what_a_reader_has_left(container: Container, text: bool) -> None:  # noqa: FBT001  a parameter
    command = r"printf 'one\ntwo\nthr\303'; read x; printf '\251e\n'"  # parts an é
    with container.popen(command, stdin=subprocess.PIPE, text=text) as process:
        first = opened(process.stdout).readline()
        rest, _ = process.communicate("\n")

    joined = "".join(
        part if isinstance(part, str) else part.decode() for part in (first, rest or "")
    )
    assert joined == "one\ntwo\nthrée\n"


def test_lines_left_by_a_reader_are_said_once(container: Container) -> None:
    with container.popen("echo one; echo two") as process:
        opened(process.stdout).readline()
        process.communicate()

    assert process.said() == [b"one\ntwo\n", b""]


def test_input_without_a_way_in_is_refused(container: Container) -> None:
    with container.popen(["true"]) as process, pytest.raises(ValueError, match="stdin=PIPE"):
        process.communicate("lost")


def test_input_is_not_sent_a_second_time(container: Container) -> None:
    with container.popen(["cat"], stdin=subprocess.PIPE) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.communicate("x" * MIB, timeout=0)
        with pytest.raises(ValueError, match="given first"):
            process.communicate("x" * MIB)

        assert process.communicate() == ("x" * MIB, "")


@pytest.mark.parametrize("timeout", ["1", float("nan"), True])
def test_bad_time_limit_of_a_wait_is_named(
    container: Container, timeout: Any
) -> None:  # Any: wrong
    with container.popen(["true"]) as process:
        with pytest.raises(ValueError, match=r"^timeout=.* is not a number of seconds$"):
            process.wait(timeout)
        with pytest.raises(ValueError, match=r"^timeout=.* is not a number of seconds$"):
            process.communicate(timeout=timeout)


@pytest.mark.parametrize("number", [-1, 65, 1 << 40, 1.5, "TERM", None, True])
def test_bad_signal_is_named(container: Container, number: Any) -> None:  # Any: wrong on purpose
    with container.popen(["cat"], stdin=subprocess.PIPE) as process:
        with pytest.raises(ValueError, match=r"is not a signal: give one such as signal\.SIGTERM"):
            process.send_signal(number)

        assert process.poll() is None


def test_closed_process_says_so(container: Container) -> None:
    process = container.popen(["sleep", "100"])
    process.close()

    for call in (process.wait, process.communicate, process.kill):
        with pytest.raises(ValueError, match="closed before it had ended"):
            call()


def test_terminal_of_an_impossible_size_is_refused(container: Container) -> None:
    with (
        container.popen(["true"], tty=True) as process,
        pytest.raises(ValueError, match="-1 rows and 80 columns are no size"),
    ):
        process.resize(-1, 80)
