"""`Container.run`: what cannot be executed, and how it is told."""

from __future__ import annotations

import io
import subprocess
from typing import Any

import pytest
from features import needs
from scripts import script

from pytest_rootfs.errors import CommandNotExecutable, CommandNotFound, ContainerError
from pytest_rootfs.runtime.container import Container

MIB = 1 << 20


def test_input_and_stdin_exclude_each_other(container: Container) -> None:
    with pytest.raises(ValueError, match="stdin and input"):
        container.run(["cat"], input="x", stdin=subprocess.DEVNULL)


def test_stdout_cannot_be_stdout(container: Container) -> None:
    with pytest.raises(ValueError, match="only stderr"):
        container.run(["true"], stdout=subprocess.STDOUT)


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
        ("\ud800", ValueError),
        (["echo", "\ud800"], ValueError),
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
