"""`Container.run`: what is executed, what comes back, what is refused."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from features import needs
from polling import wait_until

from pytest_rootfs.errors import (
    CommandFailed,
    CommandNotExecutable,
    CommandNotFound,
    ContainerError,
)
from pytest_rootfs.runtime.container import Container

MIB = 1 << 20


def script(container: Container, text: str, mode: int = 0o755) -> str:
    path = container.path("/opt/script")
    path.write_text(text)
    path.chmod(mode)
    return str(path)


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


def test_input_and_stdin_exclude_each_other(container: Container) -> None:
    with pytest.raises(ValueError, match="stdin and input"):
        container.run(["cat"], input="x", stdin=subprocess.DEVNULL)


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


def test_stdout_cannot_be_stdout(container: Container) -> None:
    with pytest.raises(ValueError, match="only stderr"):
        container.run(["true"], stdout=subprocess.STDOUT)


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


def test_missing_program(container: Container) -> None:
    with pytest.raises(CommandNotFound, match="no program 'nonesuch'") as failure:
        container.run(["nonesuch", "--help"])

    assert isinstance(failure.value, FileNotFoundError)
    assert (failure.value.returncode, failure.value.filename) == (127, "nonesuch")


def test_missing_program_by_path(container: Container) -> None:
    with pytest.raises(CommandNotFound, match="no program '/opt/nonesuch'"):
        container.run(["/opt/nonesuch"])


def test_folder_is_not_executable(container: Container) -> None:
    with pytest.raises(CommandNotExecutable, match="/etc is a folder, no program") as failure:
        container.run(["/etc"])

    assert isinstance(failure.value, PermissionError)
    assert failure.value.returncode == 126


def test_file_without_x_bit_is_not_executable(container: Container) -> None:
    path = script(container, "#!/bin/sh\n", mode=0o644)

    with pytest.raises(CommandNotExecutable, match=f"{path} cannot be executed") as failure:
        container.run([path])

    assert "chmod(0o755)" in failure.value.hint


@needs("subids")
def test_program_of_another_user_is_not_executable(container: Container) -> None:
    path = script(container, "#!/bin/sh\n", mode=0o700)

    with pytest.raises(CommandNotExecutable, match="by user '12'"):
        container.run([path], user="12")


def test_script_without_interpreter_line_is_refused(container: Container) -> None:
    path = script(container, "echo hello\n")

    with pytest.raises(CommandNotExecutable, match="neither a binary") as failure:
        container.run([path])

    assert "#!/bin/sh" in failure.value.hint


def test_string_without_shell_in_the_image(empty: Container) -> None:
    with pytest.raises(CommandNotFound) as failure:
        empty.run("echo hello")

    assert "no shell" in failure.value.hint


def test_path_variable_decides_the_program(container: Container) -> None:
    script(container, "#!/bin/sh\necho mine\n")
    container.path("/opt/script").rename("/opt/ls")

    assert container.run(["ls"], env={"PATH": "/opt:/usr/bin"}).stdout == "mine\n"


def test_program_path_starts_at_the_working_directory(container: Container) -> None:
    script(container, "#!/bin/sh\necho mine\n")

    assert container.run(["./script"], cwd="/opt").stdout == "mine\n"


@pytest.mark.parametrize("size", [200_000, 17 * MIB])
def test_too_long_argument_is_refused(container: Container, size: int) -> None:
    with pytest.raises(ContainerError, match="Argument list too long") as failure:
        container.run(["echo", "x" * size])

    assert len(str(failure.value)) < 600
    assert container.run(["echo", "alive"]).stdout == "alive\n"


def test_too_many_arguments_are_refused(container: Container) -> None:
    with pytest.raises(ContainerError, match="Argument list too long"):
        container.run(["echo", *["\x01" * 1000] * 4000])

    assert container.run(["echo", "alive"]).stdout == "alive\n"


def test_too_large_environment_is_refused(container: Container) -> None:
    with pytest.raises(ContainerError, match="Argument list too long"):
        container.run(["true"], env={"X": "x" * 3 * MIB})


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ([], ValueError),
        (["a\0b"], ValueError),
        ("a\0b", ValueError),
        ([1], TypeError),
        (b"true", TypeError),
        (None, TypeError),
    ],
)
def test_bad_command_is_refused(
    container: Container, command: object, kind: type[Exception]
) -> None:
    with pytest.raises(kind, match="command"):
        container.run(command)  # type: ignore[arg-type]  # that is what is tested


def test_empty_program_is_not_found(container: Container) -> None:
    with pytest.raises(CommandNotFound):
        container.run([""])


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

    container.run("until [ -e /tmp/done ]; do :; done", timeout=10)

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


def test_too_long_program_is_refused(container: Container) -> None:
    with pytest.raises(ContainerError, match="Argument list too long"):
        container.run(["x" * 200_000])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"env": ["A=1"]}, "env is a mapping"),
        ({"stdout": "x"}, "stdout is a file"),
        ({"stdout": True}, "stdout is a file"),
        ({"stderr": io.StringIO()}, "stderr is a file"),
        ({"input": 5}, "input is a text or bytes"),
        ({"user": True}, "user=True is not a name"),
        ({"user": b"root"}, "user=b'root' is not a name"),
        ({"user": (0, 0)}, r"user=\(0, 0\) is not a name"),
        ({"cwd": 5}, "cwd=5 is not a path"),
    ],
)
def test_argument_of_a_wrong_type_is_named(
    container: Container, arguments: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(TypeError, match=sentence):
        container.run(["true"], **arguments)


@pytest.mark.parametrize("number", [-7, 99999, 1 << 40])
def test_descriptor_that_is_not_open_is_named(container: Container, number: int) -> None:
    with pytest.raises(OSError, match=f"Bad file descriptor: 'stdout={number}'"):
        container.run(["true"], stdout=number)


def test_terminal_excludes_other_streams(container: Container) -> None:
    with pytest.raises(ValueError, match="tty=True"):
        container.run(["true"], tty=True, stdout=subprocess.DEVNULL)
