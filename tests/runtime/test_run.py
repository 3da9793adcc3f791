"""`Container.run`: what is executed and what comes back."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType

import pytest
from features import needs
from polling import wait_until
from scripts import script

from pytest_rootfs.errors import CommandFailed, CommandNotFound
from pytest_rootfs.runtime.container import Container

MIB = 1 << 20


def test_sequence_is_executed_as_it_is(container: Container) -> None:
    done = container.run(["printf", "%s|", "$HOME", "a b", "*", ""])

    assert done.stdout == "$HOME|a b|*||"


def test_string_is_run_by_the_shell(container: Container) -> None:
    done = container.run("x=2; echo $((x + 1)) | cat")

    assert done.stdout == "3\n"


def test_string_starts_the_images_shell(container: Container) -> None:
    assert container.run("echo $0").stdout == "/bin/sh\n"


def test_paths_are_words_too(container: Container) -> None:
    assert container.run([Path("/usr/bin/echo"), Path("/x")]).stdout == "/x\n"


def test_result_is_a_completed_process(container: Container) -> None:
    done = container.run(["sh", "-c", "echo out; echo err >&2"])

    assert isinstance(done, subprocess.CompletedProcess)
    assert done.args == ["sh", "-c", "echo out; echo err >&2"]
    assert (done.returncode, done.stdout, done.stderr) == (0, "out\n", "err\n")


def test_result_has_figures(container: Container) -> None:
    done = container.run("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done")

    assert done.user_s + done.system_s > 0
    assert 100_000 < done.max_rss_bytes < 100 * MIB
    assert done.oom_killed is False


@needs("processor time")
def test_processor_time_is_the_commands_own(container: Container) -> None:
    done = container.run("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done")

    assert done.user_s + done.system_s <= done.duration_s + 0.02


def test_failure_raises_with_its_output(container: Container) -> None:
    with pytest.raises(CommandFailed) as failure:
        container.run("echo seen; echo why >&2; exit 7")

    error = failure.value
    assert isinstance(error, subprocess.CalledProcessError)
    assert (error.returncode, error.stdout, error.stderr) == (7, "seen\n", "why\n")
    assert "failed with exit status 7" in str(error)
    assert "  why" in str(error)


def test_unchecked_failure_is_a_result(container: Container) -> None:
    assert container.run("exit 7", check=False).returncode == 7


def test_signal_gives_negative_status(container: Container) -> None:
    assert container.run("kill -TERM $$", check=False).returncode == -signal.SIGTERM


def test_signal_is_named_in_the_error(container: Container) -> None:
    with pytest.raises(CommandFailed, match="was killed by SIGKILL"):
        container.run("kill -KILL $$")


def test_input_is_text(container: Container) -> None:
    assert container.run(["cat"], input="größe\n").stdout == "größe\n"


def test_input_is_bytes(container: Container) -> None:
    assert container.run(["cat"], input=b"\x00\xff", text=False).stdout == b"\x00\xff"


def test_empty_input_is_an_end_of_file(container: Container) -> None:
    assert container.run(["cat"], input="").stdout == ""


def test_without_input_stdin_is_empty(container: Container) -> None:
    assert container.run(["readlink", "/proc/self/fd/0"]).stdout == "/dev/null\n"


def test_unread_input_is_no_error(container: Container) -> None:
    assert container.run(["head", "-c1"], input="x" * MIB).stdout == "x"


def test_invalid_text_is_replaced(container: Container) -> None:
    assert container.run(["printf", r"a\377b"]).stdout == "a\ufffdb"


def test_bytes_are_not_decoded(container: Container) -> None:
    done = container.run(["printf", r"a\377\r\n"], text=False)

    assert (done.stdout, done.stderr) == (b"a\xff\r\n", b"")


def test_newlines_of_text_are_universal(container: Container) -> None:
    assert container.run(["printf", r"a\r\nb\rc\n"]).stdout == "a\nb\nc\n"


def test_stderr_joins_stdout(container: Container) -> None:
    done = container.run("echo 1; echo 2 >&2; echo 3", stderr=subprocess.STDOUT)

    assert (done.stdout, done.stderr) == ("1\n2\n3\n", None)


def test_output_goes_to_a_host_file(container: Container, tmp_path: Path) -> None:
    with open(tmp_path / "out", "wb") as file:
        done = container.run("echo out; echo err >&2", stdout=file)

    assert (done.stdout, done.stderr) == (None, "err\n")
    assert (tmp_path / "out").read_text() == "out\n"


def test_input_comes_from_a_host_file(container: Container, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("from the host\n")

    with open(tmp_path / "in", "rb") as file:
        assert container.run(["cat"], stdin=file).stdout == "from the host\n"


def test_output_may_be_thrown_away(container: Container) -> None:
    done = container.run(
        "echo out; echo err >&2", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    assert (done.stdout, done.stderr) == (None, None)


@pytest.mark.slow
def test_large_data_passes_unchanged_and_fast(container: Container) -> None:
    data = os.urandom(MIB) * 50

    began = time.monotonic()
    done = container.run(["cat"], input=data, text=False)
    took_s = time.monotonic() - began

    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()
    assert took_s < 20


def test_many_lines_all_arrive(container: Container) -> None:
    lines = container.run(["seq", "200000"]).stdout.splitlines()

    assert (len(lines), lines[-1]) == (200_000, "200000")


def test_both_streams_may_be_full(container: Container) -> None:
    done = container.run("head -c 1000000 /dev/zero | tee /dev/stderr", text=False)

    assert (len(done.stdout), len(done.stderr)) == (1_000_000, 1_000_000)


@pytest.mark.parametrize("user", [None, pytest.param("12:13", marks=needs("subids"))])
def test_standard_streams_can_be_reopened(container: Container, user: str | None) -> None:
    done = container.run(
        "cat /dev/stdin >/dev/stdout; echo err >/dev/stderr", input="in", user=user
    )

    assert (done.stdout, done.stderr) == ("in", "err\n")


def test_command_has_three_descriptors(container: Container) -> None:
    done = container.run("exec ls /proc/self/fd")

    assert done.stdout.split() == ["0", "1", "2", "3"]  # 3 is the folder that ls reads


@needs("subids")
def test_command_of_a_user_has_three_descriptors(container: Container) -> None:
    assert container.run(["ls", "/proc/self/fd"], user="12").stdout.split() == list("0123")


def test_path_variable_decides_the_program(container: Container) -> None:
    script(container, "#!/bin/sh\necho mine\n")
    container.path("/opt/script").rename("/opt/ls")

    assert container.run(["ls"], env={"PATH": "/opt:/usr/bin"}).stdout == "mine\n"


def test_program_path_starts_at_the_working_directory(container: Container) -> None:
    script(container, "#!/bin/sh\necho mine\n")

    assert container.run(["./script"], cwd="/opt").stdout == "mine\n"


def test_non_ascii_words_arrive(container: Container) -> None:
    assert container.run(["printf", "%s", "ü→😀"]).stdout == "ü→😀"


def test_undecodable_words_arrive(container: Container) -> None:
    name = os.fsdecode(b"\xff\xfe")

    assert container.run(["printf", "%s", name], text=False).stdout == b"\xff\xfe"


def test_finished_command_waits_for_no_daemon(container: Container) -> None:
    began = time.monotonic()
    done = container.run("sleep 100 & echo started")

    assert done.stdout == "started\n"
    assert time.monotonic() - began < 1


def test_daemon_that_keeps_the_pipe_goes_on_writing(container: Container) -> None:
    container.run("(head -c 300000 /dev/zero; echo done > /tmp/done) & echo started")

    container.run("until [ -s /tmp/done ]; do :; done", timeout=10)

    assert container.path("/tmp/done").read_text() == "done\n"


def test_output_of_a_descendant_that_ends_soon_is_kept(container: Container) -> None:
    done = container.run("(echo late) & echo early")

    assert sorted(done.stdout.split()) == ["early", "late"]


@pytest.mark.slow
def test_daemon_that_never_stops_talking_does_not_hold_up(container: Container) -> None:
    began = time.monotonic()
    done = container.run("yes & echo started >&2", stdout=subprocess.PIPE)

    assert "started\n" in done.stderr
    assert time.monotonic() - began < 4


@pytest.mark.slow
def test_threads_share_a_container(container: Container) -> None:
    def echo(number: int) -> str:
        return str(container.run(["sh", "-c", f"echo {number}; cat"], input=f"in{number}").stdout)

    with ThreadPoolExecutor(8) as pool:
        outputs = list(pool.map(echo, range(64)))

    assert outputs == [f"{number}\nin{number}" for number in range(64)]


def test_commands_are_recorded(container: Container) -> None:
    container.run(["echo", "hello"])
    container.run("exit 3", check=False)
    with pytest.raises(CommandNotFound):
        container.run(["nonesuch"])

    records = [(record.argv, record.returncode) for record in container.commands]
    assert records == [
        (["echo", "hello"], 0),
        (["/bin/sh", "-c", "exit 3"], 3),
        (["nonesuch"], 127),
    ]
    assert container.commands[0].output_tail == "hello\n"


def test_zombies_of_daemons_are_reaped(container: Container) -> None:
    container.run("(sh -c 'exit 0' &) ; (sh -c 'exit 0' &)")

    wait_until(lambda: container.processes() == [])


def test_words_may_be_bytes_or_paths_of_the_container(container: Container) -> None:
    container.path("/tmp/file").touch()

    assert container.run(["ls", container.path("/tmp"), b"-1"]).stdout == "file\n"


def test_working_directory_may_be_a_path_of_the_container(container: Container) -> None:
    assert container.run(["pwd"], cwd=container.path("/etc")).stdout == "/etc\n"


def test_no_finalizer_runs_when_a_finished_command_is_dropped(container: Container) -> None:
    """In one, the interpreter would ignore a Ctrl-C; callbacks of weak references are such, too."""
    called = []
    files = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            called.append(frame.f_code.co_name)
            files.add(Path(frame.f_code.co_filename).name)

    sys.setprofile(note)
    try:
        container.run(["true"])
    finally:
        sys.setprofile(None)

    assert "run" in called
    assert "__del__" not in called
    assert not files & {"weakref.py", "_weakrefset.py"}
