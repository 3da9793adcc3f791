"""The frame around all verbs: help, usage, exit statuses, interrupts."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_rootfs import cli
from pytest_rootfs.cli import commands

VERBS = [verb for verbs in cli.GROUPS.values() for verb in verbs]
Call = Callable[..., Any]  # Any: a Result of conftest.py
PROGRAM = [sys.executable, "-m", "pytest_rootfs"]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, call: Call) -> None:
    result = call(verb, "--help")

    assert result.status == 0
    assert result.out.startswith(f"usage: pytest-rootfs {verb}")
    assert "--store DIR" in result.out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_examples(verb: str, call: Call) -> None:
    _, _, examples = call(verb, "--help").out.partition("\nexample")

    lines = examples.splitlines()[1:]
    assert lines
    assert all(line.startswith(f"  pytest-rootfs {verb}") for line in lines)


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1", "utf-8"])
def test_output_in_any_encoding(encoding: str, tmp_path: Path) -> None:
    env = {**os.environ, "PYTEST_ROOTFS_STORE": str(tmp_path), "PYTHONIOENCODING": encoding}

    done = subprocess.run(
        [*PROGRAM, "show", b"no-\xff-\xe2\x82\xac"], capture_output=True, env=env, check=False
    )

    euro = {"utf-8": b"\xe2\x82\xac"}.get(encoding, rb"\u20ac")
    assert done.returncode == 3
    assert b"Traceback" not in done.stderr
    assert euro in done.stderr


def test_help_lists_every_verb(call: Call) -> None:
    result = call("--help")

    listed = [line.split()[0] for line in result.out.splitlines() if line.startswith("    ")]
    assert result.status == 0
    assert set(VERBS) <= set(listed)


@pytest.mark.parametrize("words", [[], ["nonsense"], ["show"], ["rm"], ["cp", "last", "here"]])
def test_wrong_usage_is_status_2(words: list[str], call: Call) -> None:
    result = call(*words)

    assert result.status == 2
    assert result.err.startswith("usage: pytest-rootfs")


def test_help_imports_neither_rich_nor_ctypes() -> None:
    program = (
        "import sys\n"
        "from pytest_rootfs.cli import main\n"
        "main(['failures', '--help'])\n"
        "heavy = {'ctypes', 'rich', 'tenacity', 'pytest', 'tarfile', 'pytest_rootfs.engine'}\n"
        "sys.exit(str(sorted(heavy & set(sys.modules))))"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )

    assert done.stderr.strip() == "[]"


def test_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    env = {**os.environ, "PYTEST_ROOTFS_STORE": str(tmp_path)}
    read_fd, write_fd = os.pipe()
    os.close(read_fd)

    done = subprocess.run(
        [*PROGRAM, "failures", "--json"],
        stdout=write_fd,
        stderr=subprocess.PIPE,
        env=env,
        check=False,
    )
    os.close(write_fd)

    assert (done.returncode, done.stderr) == (1, b"")


def test_full_disk_is_an_error_not_a_traceback(tmp_path: Path) -> None:
    env = {**os.environ, "PYTEST_ROOTFS_STORE": str(tmp_path)}
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*PROGRAM, "failures", "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            env=env,
            check=False,
        )

    assert done.returncode == 1
    assert done.stderr == b"error: cannot write: No space left on device\n"


@pytest.mark.parametrize(
    ("closed", "status"), [("<&-", 0), (">&-", 1), ("2>&-", 0), ("<&- 2>&-", 0)]
)
def test_closed_streams_are_no_traceback(closed: str, status: int, tmp_path: Path) -> None:
    command = f"exec {sys.executable} -m pytest_rootfs failures --store {tmp_path}/store {closed}"

    done = subprocess.run(["sh", "-c", command], check=False, capture_output=True, text=True)

    assert done.returncode == status
    assert done.stdout == ("" if status else "no failures are kept here\n")
    assert done.stderr == ("error: cannot write: standard output is closed\n" if status else "")


def test_errors_draw_nothing_on_the_terminal(call: Call, store_dir: Path) -> None:
    result = call("show", "\x1b[2Jx\x07")

    assert (result.status, result.err.splitlines()[0]) == (
        3,
        "error: no kept failure is called '\\x1b[2Jx\\x07'",
    )
    assert call("inspect", "oci:a\x1b[2J").err.startswith("error: cannot read ")
    assert "\x1b" not in call("inspect", "oci:a\x1b[2J").err


def test_interrupt_gives_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_dispatch", interrupt)

    assert cli.main([]) == 128 + signal.SIGINT


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["minimal", "--", "ls", "-l"], ["ls", "-l"]),
        (["minimal", "ls", "-l"], ["ls", "-l"]),
        (["--memory", "64M", "minimal", "ls"], ["ls"]),
        (["minimal", "--memory", "64M", "--", "ls"], ["ls"]),
        (["minimal", "sh", "-c", "x", "--", "-l"], ["sh", "-c", "x", "--", "-l"]),
        (["minimal", "--", "sh", "--", "a"], ["sh", "--", "a"]),
        (["minimal"], []),
        (["minimal", "--memory", "64M"], []),
    ],
)
def test_command_is_what_follows(
    words: list[str], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = parse("run", words)

    assert parsed.command == expected
    assert parsed.image == "minimal"
    assert parsed.memory == ("64M" if "64M" in words else None)


def test_option_after_reference_needs_dashes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("run", ["minimal", "--memory", "64M", "ls"])

    assert "put `--` before the command" in capsys.readouterr().err


def parse(name: str, words: list[str]) -> argparse.Namespace:
    verb = commands.VERBS[name]
    parser = argparse.ArgumentParser()
    verb.configure(parser)
    return verb.parse(parser, words)
