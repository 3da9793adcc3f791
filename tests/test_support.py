"""The leak check sees what it is there for."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import features
import leaks
import pytest
from features import needs

DEAD_PID = 2**22 + 1  # above the kernel's largest, PID_MAX_LIMIT in threads.h


def new_since(before: leaks.Sight) -> str:
    return "\n".join(leaks.new_things(before, leaks.look()))


def test_nothing_new_is_no_leak() -> None:
    before = leaks.look()

    assert leaks.wait_until_gone(before) == []


def test_process_is_a_leak_until_it_ends() -> None:
    before = leaks.look()
    with subprocess.Popen(["sleep", "60"]) as process:
        assert f"process {process.pid} " in new_since(before)
        process.kill()

    assert new_since(before) == ""


def test_process_of_a_process_is_a_leak() -> None:
    before = leaks.look()
    with subprocess.Popen(
        ["sh", "-c", "sleep 60 & echo $!; wait"], stdout=-1, text=True
    ) as process:
        assert process.stdout
        grandchild = int(process.stdout.readline())
        found = new_since(before)
        os.kill(grandchild, 9)

    assert f"process {grandchild} " in found


def test_open_descriptor_is_a_leak() -> None:
    before = leaks.look()
    with open("/dev/null", "rb"):
        found = new_since(before)

    assert found == "descriptor /dev/null"


def test_temporary_file_is_a_leak() -> None:
    before = leaks.look()
    with tempfile.NamedTemporaryFile() as file:
        found = new_since(before)

    assert f"temporary file {Path(file.name).name}" in found


@needs("root")
def test_mount_is_a_leak(tmp_path: Path) -> None:
    before = leaks.look()
    subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path], check=True)
    try:
        found = new_since(before)
    finally:
        subprocess.run(["umount", tmp_path], check=True)

    assert f"mount {tmp_path}" in found.splitlines()  # another worker may have one, too


@needs("root")
def test_folder_of_a_dead_engine_is_a_leak() -> None:
    mount = next(x for x in Path("/sys/fs/cgroup").iterdir() if (x / "cgroup.procs").exists())
    folder = mount / f"{leaks.GROUP_PREFIX}00000000-{DEAD_PID}-1"
    before = leaks.look()
    folder.mkdir()
    try:
        found = new_since(before)
    finally:
        folder.rmdir()

    assert f"cgroup {folder}" in found.splitlines()  # as above


def test_missing_feature_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    monkeypatch.delenv(features.LACKS, raising=False)

    with pytest.raises(pytest.fail.Exception, match="CI lacks 'no-such-program'"):
        features.give_up("no-such-program", features.missing("no-such-program"))


def test_feature_that_ci_disclaims_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv(features.LACKS, "second core,no-such-program")

    with pytest.raises(pytest.skip.Exception, match="not installed"):
        features.give_up("no-such-program", features.missing("no-such-program"))


def test_missing_feature_skips_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)

    with pytest.raises(pytest.skip.Exception, match="not installed"):
        features.give_up("no-such-program", features.missing("no-such-program"))
