"""`shell --shell PROGRAM`: a program of this host in an image without a shell."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from features import needs
from keeping import forget, keep

from pytest_rootfs import Failure, Image
from pytest_rootfs.cli import host_shells

if TYPE_CHECKING:
    from pytest_rootfs.engine import Engine

Call = Callable[..., Any]  # Any: a Result of conftest.py
PROGRAM = [sys.executable, "-m", "pytest_rootfs"]


@pytest.fixture
def bare(engine: Engine, project: Path) -> Iterator[Failure]:
    """Keep a failure of a container that holds nothing but a file."""
    with engine.start(Image.scratch().workdir("/srv").env(MINE="1")) as container:
        container.path("/srv/file").write_text("content\n")
        failure = keep(engine, container, rootdir=project)
    yield failure
    forget(engine, failure)


def shell(program: str, typed: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, "shell", "last", "--shell", program],
        input=typed,
        capture_output=True,
        text=True,
        check=False,
    )


@needs("userns", "bash")
def test_shell_of_the_host_walks_in(bare: Failure) -> None:
    done = shell("bash", "echo $MINE $PWD $UID; read line < file; echo $line; echo /*; exit 7\n")

    assert done.stdout == "1 /srv 0\ncontent\n/dev /etc /proc /srv /sys\n"
    assert (done.returncode, done.stderr) == (7, "")


@needs("userns", "busybox")
def test_words_after_the_program_are_arguments(bare: Failure) -> None:
    done = shell("busybox sh", "busybox cat file 2>/dev/null || cat file; exit 6\n")

    assert (done.returncode, done.stdout) == (6, "content\n")


@needs("userns", "bash", "subids")
def test_programs_of_the_image_keep_their_libraries(failed: Failure) -> None:
    done = shell("bash", "echo $LD_LIBRARY_PATH; ls app.conf; ls -d /.pytest-rootfs/*.so* >&2\n")

    assert done.stdout == "\napp.conf\n"
    assert "libc.so" in done.stderr


@needs("userns", "bash")
def test_program_of_the_host_cannot_be_changed(bare: Failure) -> None:
    done = shell("bash", "echo x > /.pytest-rootfs/bash; echo still here\n")

    assert done.stdout == "still here\n"
    assert "Read-only file system" in done.stderr


@needs("userns")
def test_image_without_shell_names_the_way_in(bare: Failure, call: Call) -> None:
    result = call("shell", "last")

    assert result.status == 1
    assert result.err.startswith("error: image scratch+2 has no shell: it has none of ")
    assert result.err.endswith(
        f"hint: bring one of this host: pytest-rootfs shell {bare.id} --shell bash\n"
    )


@pytest.mark.parametrize(
    ("program", "status", "words"),
    [
        ("no-such-shell", 3, "error: this host has no program 'no-such-shell'\nhint: "),
        ("", 2, "--shell needs the name of a program"),
        ("'", 2, "No closing quotation"),
    ],
)
def test_program_that_cannot_be_lent(program: str, status: int, words: str, call: Call) -> None:
    result = call("shell", "last", "--shell", program)

    assert result.status == status
    assert words in result.err


def test_script_cannot_be_lent(call: Call, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)

    result = call("shell", "last", "--shell", str(script))

    assert result.status == 1
    assert f"{script} is a script" in result.err


def test_name_of_a_link_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mysh").symlink_to(os.path.realpath("/bin/sh"))
    monkeypatch.setenv("PATH", str(tmp_path))

    lent = host_shells.lend("mysh -l")

    assert lent.command[-2:] == ("/.pytest-rootfs/mysh", "-l")
    assert lent.mounts[0] == (str(tmp_path / "mysh"), "/.pytest-rootfs/mysh", "ro")
