"""Errors: three parts, and the standard library's classes beside ours."""

from __future__ import annotations

import pickle
import subprocess

import pytest

from pytest_rootfs import errors
from pytest_rootfs.errors import (
    CommandFailed,
    CommandNotExecutable,
    CommandNotFound,
    CommandTimeout,
    ContainerError,
    HostUnsupported,
    LimitUnavailable,
    RootfsError,
)


def test_three_parts_one_a_line() -> None:
    error = RootfsError("cannot do x", detail="because of y", hint="do z")

    assert str(error) == "cannot do x\nbecause of y\nhint: do z"
    assert (error.what, error.detail, error.hint) == ("cannot do x", "because of y", "do z")


def test_empty_parts_are_left_out() -> None:
    assert str(RootfsError("cannot do x")) == "cannot do x"
    assert str(RootfsError("cannot do x", hint="do z")) == "cannot do x\nhint: do z"


def test_failure_is_a_called_process_error() -> None:
    error = CommandFailed(["ls", "a b"], 2, stdout="out\n", stderr="err\n")

    assert isinstance(error, subprocess.CalledProcessError)
    assert isinstance(error, ContainerError)
    assert (error.cmd, error.returncode, error.stdout, error.stderr) == (
        ["ls", "a b"],
        2,
        "out\n",
        "err\n",
    )
    assert str(error) == (
        "command `ls 'a b'` failed with exit status 2\nstdout:\n  out\nstderr:\n  err"
    )


def test_failure_names_its_reason() -> None:
    assert str(CommandFailed("x", 1, reason="out of memory")) == (
        "command `x` failed with exit status 1: out of memory"
    )


@pytest.mark.parametrize(
    ("status", "words"),
    [(-9, "was killed by SIGKILL"), (-15, "was killed by SIGTERM"), (-99, "killed by signal 99")],
)
def test_failure_names_the_signal(status: int, words: str) -> None:
    assert words in str(CommandFailed("x", status))


def test_output_is_shortened_to_its_end() -> None:
    text = str(CommandFailed("x", 1, stdout="\n".join(map(str, range(100)))))

    assert "stdout (last 20 of 100 lines):\n  80\n" in text
    assert text.endswith("  99")


def test_output_of_bytes_is_shown() -> None:
    assert "  a\\xff" in str(CommandFailed("x", 1, stderr=b"a\xff\n"))


def test_long_command_is_shortened() -> None:
    assert len(errors.shown(["echo", "x" * 10_000])) == 200


def test_timeout_is_a_timeout_of_two_libraries() -> None:
    error = CommandTimeout(["x"], 1.5, stdout=b"out")

    assert isinstance(error, TimeoutError)
    assert isinstance(error, subprocess.TimeoutExpired)
    assert (error.cmd, error.timeout, error.output) == (["x"], 1.5, b"out")
    assert "did not end within 1.5 s and was killed" in str(error)
    assert "hint: raise timeout=" in str(error)


@pytest.mark.parametrize(
    ("kind", "base", "status"),
    [
        (CommandNotFound, FileNotFoundError, 127),
        (CommandNotExecutable, PermissionError, 126),
    ],
)
def test_unstartable_commands_are_os_errors(
    kind: type[CommandNotFound], base: type[OSError], status: int
) -> None:
    error = kind("no program x", program="x", hint="look")

    assert isinstance(error, base)
    assert isinstance(error, ContainerError)
    assert (error.returncode, error.filename) == (status, "x")
    assert str(error) == "no program x\nhint: look"


def test_missing_limit_is_a_missing_feature_of_the_host() -> None:
    assert issubclass(LimitUnavailable, HostUnsupported)


@pytest.mark.parametrize(
    "error",
    [
        errors.CommandFailed(["x"], 3, stdout="out", reason="why"),
        errors.CommandTimeout("sleep 9", 1.5, stderr=b"err"),
        errors.CommandNotFound("no program 'x'", program="x", hint="look"),
        errors.CommandNotExecutable("/x cannot be executed", program="/x"),
        errors.ImageNotFound("no image", detail="looked here", hint="near"),
    ],
)
def test_errors_survive_pickling(error: errors.RootfsError) -> None:
    copy = pickle.loads(pickle.dumps(error))

    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
