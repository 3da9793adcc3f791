"""`ls`, `cat`, `cp`, `diff`, `exec`, `shell`: walk into a kept failure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from features import needs
from keeping import forget, keep

from pytest_rootfs import Failure

if TYPE_CHECKING:
    from pytest_rootfs.engine import Engine

Call = Callable[..., Any]  # Any: a Result of conftest.py
PROGRAM = [sys.executable, "-m", "pytest_rootfs"]

pytestmark = needs("userns")


def test_evidence_is_complete(failed: Failure) -> None:
    assert {change["path"]: change["kind"] for change in failed.changes} == {
        "/srv/app.conf": "modified",
        "/srv/blob": "modified",
        "/srv/link": "added",
        "/srv/new dir": "added",
        "/srv/new dir/new.txt": "added",
        "/srv/old.txt": "deleted",
        "/srv/script": "modified",
    }
    (command,) = failed.commands
    assert command["argv"][-1].endswith("exit 3")
    assert command["returncode"] == 3
    assert "said" in command["output_tail"]
    assert failed.main.gaps == ()
    assert (failed.main.user, failed.main.workdir) == ("nobody", "/srv")
    assert failed.main.env["FROM_IMAGE"] == "1"
    assert failed.main.env["FROM_MARK"] == "2"
    assert failed.limits["pids"] == 1024
    assert 0 < failed.size < 100_000


def test_ls_marks_changes(failed: Failure, call: Call) -> None:
    result = call("ls", "last", "/srv")

    assert result.status == 0
    rows = {line[2:].split(maxsplit=5)[-1]: line for line in result.out.splitlines()[1:]}
    assert "M" in rows["app.conf"][:4]
    assert rows["blob"].split()[:4] == ["M", "-rw-r--r--", "0:0", "11"]
    assert rows["script"].split()[:2] == ["M", "-rwxr-xr-x"]
    assert any(line.startswith("A") and "new dir" in line for line in rows.values())
    assert any("link -> /etc/passwd" in line for line in rows.values())
    assert any(line.split() == ["D", "old.txt"] for line in rows.values())


def test_ls_as_json(failed: Failure, call: Call) -> None:
    listed = json.loads(call("ls", failed.id, "--json").out)

    assert [entry["name"] for entry in listed if entry["change"] == "A"] == ["link", "new dir"]


def test_cat_gives_the_very_bytes(failed: Failure) -> None:
    command = [*PROGRAM, "cat", "last", "blob", "/srv/new dir/new.txt"]

    done = subprocess.run(command, capture_output=True, check=True)

    assert done.stdout == b"binary\0two!first\nsecond without end"


def test_missing_path_is_not_found(failed: Failure, call: Call) -> None:
    for words in (("cat", "last", "/nope"), ("ls", "last", "/nope"), ("cp", "last:/nope", ".")):
        result = call(*words)
        assert result.status == 3
        assert result.err.startswith("error: /nope does not exist in the failed container\nhint: ")


def test_cp_copies_out(failed: Failure, call: Call, tmp_path: Path) -> None:
    assert call("cp", "last:/srv/app.conf", str(tmp_path / "here.conf")).status == 0
    assert call("cp", f"{failed.nodeid}:/srv", str(tmp_path)).status == 0

    assert "line fifty" in (tmp_path / "here.conf").read_text()
    assert (tmp_path / "srv" / "new dir" / "new.txt").read_text().startswith("first\n")
    assert os.readlink(tmp_path / "srv" / "link") == "/etc/passwd"
    assert not (tmp_path / "srv" / "old.txt").exists()


def test_cp_leaves_out_what_is_no_file(
    engine: Engine, call: Call, project: Path, tmp_path: Path
) -> None:
    with engine.start("minimal") as container:
        container.run("mkfifo /srv/a; mkdir /srv/b; mkfifo /srv/b/c; echo last > /srv/z")
        failure = keep(engine, container, rootdir=project)
    call("cp", "last:/srv/b", str(tmp_path))

    part = call("cp", "last:/srv", f"{tmp_path}/some/")
    one = call("cp", "last:/srv/a", f"{tmp_path}/one")
    forget(engine, failure)

    assert (part.status, one.status) == (1, 1)
    assert part.err == (
        "error: /srv/a, /srv/b/c left out: only files, folders and symlinks can be copied\n"
        "hint: see them where they are, the rest is copied: pytest-rootfs shell last\n"
    )
    assert "error: /srv/a left out" in one.err
    assert (tmp_path / "some/srv/z").read_text() == "last\n"
    assert [path.name for path in tmp_path.joinpath("some/srv").rglob("*")] == ["b", "z"]
    assert not (tmp_path / "one").exists()


def test_cp_of_all_leaves_out_the_kernels_files(
    failed: Failure, call: Call, tmp_path: Path
) -> None:
    result = call("cp", "last:/", f"{tmp_path}/all/")
    named = call("cp", "last:/proc/version", f"{tmp_path}/")

    assert (result.status, result.err) == (
        0,
        "note: /dev, /proc, /sys left out: the kernel fills them, not the image\n",
    )
    assert {"etc", "srv"} <= {path.name for path in (tmp_path / "all/root").iterdir()}
    assert not (tmp_path / "all/root/proc").exists()
    assert named.err == ""


def test_diff_shows_every_change(failed: Failure, call: Call) -> None:
    result = call("diff", "last")

    assert result.status == 0
    assert "--- a/srv/app.conf\n+++ b/srv/app.conf\n@@ -48,7 +48,7 @@\n" in result.out
    assert "-line 50\n+line fifty\n" in result.out
    assert "binary file /srv/blob: 10 -> 11 bytes\n" in result.out
    assert "added symlink: /srv/link -> /etc/passwd, mode 0777\n" in result.out
    assert "added directory: /srv/new dir, mode 0755\n" in result.out
    assert "--- /dev/null\n+++ b/srv/new dir/new.txt\n@@ -0,0 +1,2 @@\n+first\n" in result.out
    assert "+second without end\n\\ No newline at end of file\n" in result.out
    assert "--- a/srv/old.txt\n+++ /dev/null\n@@ -1 +0,0 @@\n-to be deleted\n" in result.out
    assert "mode of /srv/script: 0644 -> 0755\n" in result.out


def test_diff_of_one_folder(failed: Failure, call: Call) -> None:
    result = call("diff", "last", "new dir")

    assert result.out.count("added") == 2
    assert "app.conf" not in result.out
    assert call("diff", "last", "/etc").status == 3


def test_diff_is_what_patch_reads(failed: Failure, call: Call, tmp_path: Path) -> None:
    lines = "".join(f"line {number}\n" for number in range(100))
    (tmp_path / "app.conf").write_text(lines)
    patch = call("diff", "last", "/srv/app.conf").out

    subprocess.run(["patch", "app.conf"], cwd=tmp_path, input=patch, text=True, check=True)

    assert (tmp_path / "app.conf").read_text() == lines.replace("line 50\n", "line fifty\n")


@needs("subids")
def test_exec_runs_as_the_test_did(failed: Failure, call: Call) -> None:
    result = call(
        "exec", "last", "--", "sh", "-c", "id -un; pwd; echo $FROM_IMAGE$FROM_MARK; uname -n"
    )

    assert (result.status, result.out, result.err) == (0, "nobody\n/srv\n12\napp\n", "")


def test_exec_takes_another_user_and_folder(failed: Failure, call: Call) -> None:
    words = ("exec", "--user", "root", "--workdir", "/etc", "--env", "A=b c", "last", "sh", "-c")

    assert call(*words, "id -u; pwd; echo $A").out == "0\n/etc\nb c\n"


@needs("subids")
@pytest.mark.parametrize("words", [["--user", ""], ["--workdir", "srv"]])
def test_impossible_place_is_wrong_usage(words: list[str], failed: Failure, call: Call) -> None:
    result = call("exec", *words, "last", "--", "true")

    assert result.status == 2
    assert f"exec: error: {words[0].strip('-')}=" in result.err


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "kill -TERM $$"], 128 + 15),
        (["no-such-program"], 127),
        (["/srv/app.conf"], 126),
        ([], 2),
    ],
)
def test_exec_gives_the_commands_status(
    command: list[str], status: int, failed: Failure, call: Call
) -> None:
    assert call("exec", "last", "--", *command).status == status


def test_changes_of_exec_are_thrown_away(failed: Failure, call: Call) -> None:
    assert call("exec", "last", "--user", "root", "--", "rm", "-r", "/srv/new dir").status == 0

    assert call("cat", "last", "/srv/new dir/new.txt").status == 0


@needs("subids")
def test_exec_passes_input_on(failed: Failure) -> None:
    done = subprocess.run(
        [*PROGRAM, "exec", "last", "cat"], input=b"\0through\xff", capture_output=True, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, b"\0through\xff", b"")


@needs("subids")
def test_shell_reads_from_a_pipe(failed: Failure) -> None:
    done = subprocess.run(
        [*PROGRAM, "shell", failed.id],
        input="id -un\ncat 'new dir/new.txt'\nexit 5\n",
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (5, "")
    assert done.stdout == "nobody\nfirst\nsecond without end"


def test_unknown_container_is_not_found(failed: Failure, call: Call) -> None:
    result = call("cat", "last", "-c", "db", "/etc/passwd")

    assert result.status == 3
    assert "its containers: app" in result.err


def test_folder_cannot_be_printed(call: Call, failed: Failure) -> None:
    result = call("cat", "last", "/srv")

    assert result.status == 1
    assert result.err.startswith("error: /srv is a folder\n")
