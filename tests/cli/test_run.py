"""`run`, `images`, `build`, `gc`: containers and images by hand."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from features import needs

Call = Callable[..., Any]  # Any: a Result of conftest.py
PROGRAM = [sys.executable, "-m", "pytest_rootfs"]

pytestmark = needs("userns")


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 42"], 42),
        (["sh", "-c", "kill -KILL $$"], 128 + 9),
        (["no-such-program"], 127),
        (["/etc/passwd"], 126),
    ],
)
def test_run_gives_the_commands_status(command: list[str], status: int, call: Call) -> None:
    assert call("run", "minimal", "--", *command).status == status


def test_run_streams_both_outputs(call: Call) -> None:
    result = call("run", "minimal", "--", "sh", "-c", "echo out; echo err >&2")

    assert (result.status, result.out, result.err) == (0, "out\n", "err\n")


def test_run_reads_only_when_interactive() -> None:
    for words, expected in ((["run", "minimal"], b""), (["run", "-i", "minimal"], b"typed")):
        done = subprocess.run(
            [*PROGRAM, *words, "cat"], input=b"typed", capture_output=True, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, expected, b"")


@needs("subids")
def test_run_takes_the_marks_keywords(call: Call, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "file").write_text("from the host\n")
    name = "cat /proc/sys/kernel/hostname"
    script = f"id -u; pwd; echo $A; {name}; cat /mnt/here/file; touch /mnt/here/x || echo ro"

    result = call(
        *("run", "--user", "1000:1000", "--workdir", "/var", "--env", "A=b"),
        *("--hostname", "box", "--mount", f"{tmp_path}/shared:/mnt/here", "--tmpfs", "/scratch:1M"),
        *("minimal", "--", "sh", "-c", script),
    )

    assert result.status == 0
    assert result.out == "1000\n/var\nb\nbox\nfrom the host\nro\n"


def test_writable_mount_is_asked_for(call: Call, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    mount = f"{tmp_path}:/mnt:rw"

    result = call("run", "--mount", mount, "minimal", "--", "sh", "-c", "echo new > /mnt/file")

    assert (result.status, result.err) == (0, "")
    assert (tmp_path / "file").read_text() == "new\n"


def test_readonly_refuses_writing(call: Call) -> None:
    result = call("run", "--readonly", "minimal", "--", "touch", "/etc/x")

    assert result.status == 1
    assert "Read-only" in result.err


def test_timeout_gives_124(call: Call) -> None:
    begin = time.monotonic()

    result = call("run", "--timeout", "0.2", "minimal", "--", "sleep", "60")

    assert result.status == 124
    assert result.err == "error: `sleep 60` did not end within 0.2 s and was killed\n"
    assert time.monotonic() - begin < 30


def test_terminate_ends_the_command(tmp_path: Path) -> None:
    command = "trap 'echo caught; exit 5' TERM; echo ready; while :; do sleep 0.01; done"
    with subprocess.Popen(
        [*PROGRAM, "run", "minimal", "--", "sh", "-c", command], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "caught\n"
        assert process.wait() == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--memory", "lots", "minimal"], "memory='lots' is not a size"),
        (["--cpus", "-1", "minimal"], "cpus=-1.0"),
        (["--mount", "/tmp", "minimal"], "--mount /tmp: give SRC:DST"),
        (["--env", "=x", "minimal"], "--env =x: give NAME=VALUE"),
        (["-t", "minimal"], "-t needs a terminal"),
        (["--network", "wifi", "minimal"], "invalid choice: 'wifi'"),
    ],
)
def test_bad_options_are_usage_errors(words: list[str], message: str, call: Call) -> None:
    result = call("run", *words, "--", "true")

    assert result.status == 2
    assert message in result.err


def test_unknown_image_is_not_found(call: Call) -> None:
    result = call("run", "minimall", "--", "true")

    assert result.status == 3
    assert "'minimal'" in result.err
    assert "Traceback" not in result.err


def test_missing_mount_source_is_an_error(call: Call) -> None:
    result = call("run", "--mount", "/no/such/place:/mnt", "minimal", "--", "true")

    assert result.status == 1
    assert result.err.startswith("error: cannot mount /no/such/place")


def test_image_without_shell_says_so(call: Call) -> None:
    result = call("run", "scratch")

    assert result.status == 1
    assert "image scratch has no shell" in result.err


def test_explain_prints_the_plan_only(call: Call) -> None:
    result = call("run", "minimal", "--explain", "--", "sh", "-c", "echo ran")

    assert result.status == 0
    assert "pivot" in result.out
    assert "ran" not in result.out.split()


@needs("memory")
def test_memory_limit_kills(call: Call) -> None:
    hog = "a=x; while :; do a=$a$a; done"

    result = call("run", "--memory", "32M", "minimal", "--", "sh", "-c", hog)

    assert result.status == 137
    assert result.err == "note: memory: the kernel killed 1 process(es) over 32.0 MiB\n"


def test_images_lists_recipes_and_tags(call: Call, project: Path) -> None:
    (project / "images").mkdir()
    (project / "images" / "mine.toml").write_text('from = "minimal"\n')
    call("build", "minimal")

    rows = json.loads(call("images", "--json").out)

    kinds = {row["name"]: row["kind"] for row in rows}
    assert kinds["mine"] == "recipe"
    assert kinds["minimal"] == "shipped"
    assert kinds["scratch"] == kinds["host"] == "built in"
    minimal = next(row for row in rows if row["name"] == "minimal")
    assert minimal["layers"] >= 2
    assert minimal["size"] > 1 << 20


def test_host_has_no_digest(call: Call, project: Path) -> None:
    rows = {row["name"]: row for row in json.loads(call("images", "--json").out)}

    assert rows["host"]["digest"] is None
    assert rows["scratch"]["digest"].startswith("sha256:")
    (line,) = [each for each in call("images").out.splitlines() if each.startswith("host ")]
    assert "not portable" in line


def test_build_tags_an_image(call: Call, store_dir: Path) -> None:
    result = call("build", "scratch", "--tag", "empty:1")

    assert result.status == 0
    assert result.out.startswith("sha256:")
    assert "empty:1" in call("images").out
    assert (store_dir / "index.json").read_text().count(result.out.strip()) == 1


def test_broken_recipe_is_told_in_the_list(call: Call, project: Path) -> None:
    (project / "images").mkdir()
    (project / "images" / "broken.toml").write_text("from = 3\n")

    result = call("images")

    assert result.status == 0
    assert "broken.toml" in result.err
    assert call("build", "broken").status == 1


def test_gc_frees_what_nothing_names(call: Call, store_dir: Path) -> None:
    call("build", "minimal")

    kept = call("gc")
    dropped = call("gc", "--all")

    assert kept.out.startswith("0 B freed: 0 blobs, 0 unpacked layers")
    assert dropped.status == 0
    assert "MiB freed" in dropped.out
    assert list((store_dir / "trash").iterdir()) == []
    assert not [layer for folder in (store_dir / "layers").iterdir() for layer in folder.iterdir()]


def test_folder_is_no_recipe(call: Call, project: Path) -> None:
    (project / "images" / "dir.toml").mkdir(parents=True)

    result = call("build", "dir")

    assert result.status == 3
    assert "'dir'?" not in result.err
    assert "\ndir " not in call("images").out


def test_project_settings_name_the_store(
    call: Call, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_ROOTFS_STORE")
    (project / "pytest.ini").write_text("[pytest]\nrootfs_store = .store\n")

    assert call("build", "scratch").status == 0

    assert (project / ".store" / "oci-layout").exists()
    assert os.environ.get("PYTEST_ROOTFS_STORE") is None
