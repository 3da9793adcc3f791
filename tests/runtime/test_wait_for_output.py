"""Waiting for what a process says, which nobody else loses by it."""

from __future__ import annotations

import re
import subprocess
import threading
from subprocess import PIPE, STDOUT

import pytest

from pytest_rootfs.errors import ContainerError
from pytest_rootfs.runtime.container import Container

pytestmark = pytest.mark.usefixtures("newest_is_closed")


def test_output_is_waited_for(container: Container) -> None:
    process = container.popen("sleep 0.05; echo starting; echo ready; exec sleep 100")

    container.wait_for(output="ready")
    container.wait_for(output="starting")

    assert process.poll() is None


def test_output_can_match_an_expression(container: Container) -> None:
    process = container.popen("echo starting; echo listening on 0.0.0.0:8080 >&2; exec sleep 100")

    match = process.wait_for_output(re.compile(r"listening on \S+:(\d+)$", re.MULTILINE))

    assert match[1] == "8080"
    assert process.wait_for_output(re.compile(rb"star")).group() == b"star"


def test_communicate_gives_what_was_waited_for(container: Container) -> None:
    process = container.popen("echo one; echo two >&2; cat; echo three", stdin=PIPE)
    process.wait_for_output("one")
    process.wait_for_output("two")

    assert process.communicate("input\n") == ("one\ninput\nthree\n", "two\n")


def test_stream_gives_what_was_waited_for(container: Container) -> None:
    process = container.popen("echo one; echo two; echo three; exec sleep 100")
    process.wait_for_output("two")
    assert process.stdout is not None

    assert [process.stdout.readline() for _ in range(3)] == ["one\n", "two\n", "three\n"]
    process.kill()
    assert process.stdout.read() == ""


def test_stream_that_is_open_loses_nothing(container: Container) -> None:
    process = container.popen("echo one; echo two; read x; echo three", stdin=PIPE)
    stdout, stdin = process.stdout, process.stdin
    assert stdout is not None and stdin is not None
    first = stdout.readline()

    process.wait_for_output("two")  # which the file object has in its buffer
    stdin.write("x\n")  # type: ignore[arg-type]  # a text stream
    stdin.close()
    process.wait_for_output("three")

    assert [first, *stdout] == ["one\n", "two\n", "three\n"]


def test_thread_that_reads_does_not_disturb(container: Container) -> None:
    process = container.popen(
        "i=0; while [ $i -lt 500 ]; do echo line $i; i=$((i+1)); done; echo end; exec sleep 100"
    )
    lines: list[str | bytes] = []

    def read() -> None:
        assert process.stdout is not None
        lines.extend(iter(process.stdout.readline, "end\n"))

    thread = threading.Thread(target=read)
    thread.start()
    process.wait_for_output("line 499")
    thread.join(10)

    assert lines == [f"line {number}\n" for number in range(500)]


def test_full_pipe_is_emptied_while_waiting(container: Container) -> None:
    process = container.popen("head -c 3000000 /dev/zero | tr '\\0' x; echo; echo ready")

    container.wait_for(output="ready")

    out, _ = process.communicate()
    assert out == "x" * 3_000_000 + "\nready\n"


def test_terminal_output_is_waited_for(container: Container) -> None:
    with container.popen("echo one; echo two; read x", tty=True) as process:
        container.wait_for(output="one\ntwo\n")
        assert process.stdout is not None and process.stdout.readline() == "one\n"
        process.kill()


def test_merged_output_is_waited_for(container: Container) -> None:
    container.popen("echo oops >&2; exec sleep 100", stderr=STDOUT)

    container.wait_for(output="oops")


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    ("command", "end"),
    [
        ("echo bad config; exit 2", "ended with exit status 2"),
        ("echo bad config; kill -9 $$", "was killed by SIGKILL"),
        ("echo bad config; exec >&- 2>&-; sleep 100", "has closed its output"),
    ],
)
@pytest.mark.slow
def test_end_of_output_ends_the_wait(container: Container, command: str, end: str) -> None:
    container.popen(command)

    with pytest.raises(ContainerError, match=f"{end} without saying 'ready'") as failure:
        container.wait_for(output="ready")

    assert failure.value.detail.endswith(":\n  bad config")
    assert not isinstance(failure.value, TimeoutError)


@pytest.mark.usefixtures("at_once")
def test_output_that_was_read_to_its_end_is_searched(container: Container) -> None:
    process = container.popen("echo ready")
    process.communicate()

    container.wait_for(output="ready")
    with pytest.raises(ContainerError, match="without saying 'else'"):
        container.wait_for(output="else")


def test_timeout_shows_the_last_lines(container: Container) -> None:
    container.popen("echo one; echo two; exec sleep 100")
    container.wait_for(output="two")

    with pytest.raises(TimeoutError, match=r"has not said 'ready' after 0\.05 s") as late:
        container.wait_for(output="ready", timeout=0.05)

    assert late.value.detail.endswith(":\n  one\n  two")  # type: ignore[attr-defined]  # ours


def test_output_of_nobody_is_an_error(container: Container) -> None:
    with pytest.raises(ValueError, match="no process was started by popen"):
        container.wait_for(output="ready")


def test_output_that_goes_elsewhere_is_an_error(container: Container) -> None:
    process = container.popen(["sleep", "100"], stdout=None, stderr=subprocess.DEVNULL)

    with pytest.raises(ValueError, match="sent elsewhere"):
        process.wait_for_output("ready")


@pytest.mark.parametrize("output", [1, ["ready"]])
def test_output_is_a_text(container: Container, output: object) -> None:
    container.popen(["true"])

    with pytest.raises(TypeError, match="output is a text or a compiled expression"):
        container.wait_for(output=output)  # type: ignore[arg-type]  # that is the point


def test_empty_text_is_an_error(container: Container) -> None:
    container.popen(["true"])

    with pytest.raises(ValueError, match="no text to wait for"):
        container.wait_for(output="")
