"""Folders of the host, temporary file systems and a read-only root, as a container has them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from features import needs

from pytest_rootfs.runtime.spec import MOUNTS_MAX

if TYPE_CHECKING:
    from conftest import Start

    from pytest_rootfs.runtime.container import Container


def test_mount_shows_a_host_folder(start: Start, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("of the host")

    container = start(mounts=[(tmp_path, "/mnt/here")])

    assert container.path("/mnt/here/x").read_text() == "of the host"


def test_mount_shows_a_host_file(start: Start, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("of the host")

    container = start(mounts=[(str(tmp_path / "x"), "/etc/app/x.conf")])

    assert container.run(["cat", "/etc/app/x.conf"]).stdout == "of the host"


def test_mount_is_readonly(start: Start, tmp_path: Path) -> None:
    container = start(mounts=[(tmp_path, "/mnt/here")])

    done = container.run(["touch", "/mnt/here/x"], check=False)

    assert "Read-only file system" in done.stderr
    assert list(tmp_path.iterdir()) == []


@needs("ordinary user")
def test_devices_of_a_mount_are_dead(start: Start) -> None:
    container = start(mounts=[("/dev", "/mnt/dev")])

    done = container.run("cat < /mnt/dev/null", check=False)

    assert "Permission denied" in done.stderr


def test_mounts_may_be_nested(start: Start, tmp_path: Path) -> None:
    (tmp_path / "outer").mkdir()
    (tmp_path / "inner").write_text("inner")
    (tmp_path / "outer/place").touch()

    container = start(mounts=[(tmp_path / "outer", "/mnt/o"), (tmp_path / "inner", "/mnt/o/place")])

    assert container.path("/mnt/o/place").read_text() == "inner"


@pytest.mark.parametrize("name", ["with space", "a,b:c\\d", "new\nline", os.fsdecode(b"\xff")])
def test_strange_names_can_be_mounted(start: Start, tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "x").write_text("found")

    container = start(mounts=[(tmp_path / name, "/mnt/here")])

    assert container.path("/mnt/here/x").read_text() == "found"


def test_tmpfs_is_empty_and_writable(start: Start) -> None:
    container = start(tmpfs=["/scratch", ("/var/small", "64K")])

    done = container.run(
        "stat -c %a /scratch; echo > /scratch/x; head -c 100K /dev/zero > /var/small/x", check=False
    )

    assert done.stdout == "1777\n"
    assert "No space left on device" in done.stderr


def test_readonly_container(start: Start) -> None:
    container = start(readonly=True, tmpfs=["/tmp"])

    done = container.run("echo > /tmp/x; echo > /x", check=False)

    assert done.returncode != 0
    assert "/x: Read-only file system" in done.stderr
    assert container.path("/tmp/x").exists()


def mounts_of(container: Container) -> list[str]:
    return container.run("cat /proc/self/mountinfo").stdout.splitlines()


def test_root_is_listed_first(container: Container) -> None:
    of_a_start = [line.split()[4] for line in mounts_of(container)]
    container.restart()
    of_a_restart = [line.split()[4] for line in mounts_of(container)]

    assert [of_a_start[:2], of_a_restart[:2]] == [["/", "/proc"], ["/", "/proc"]]


def many_mounts(start: Start, folder: Path, count: int) -> Container:
    return start(mounts=[(folder, f"/mnt/{number}") for number in range(count)])


@pytest.mark.slow
def test_as_many_mounts_as_may_be_asked_for(start: Start, tmp_path: Path) -> None:
    container = many_mounts(start, tmp_path, MOUNTS_MAX)

    assert sum(" /mnt/" in line for line in mounts_of(container)) == MOUNTS_MAX


def test_more_mounts_are_refused(start: Start, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="241 entries, more than the 240"):
        many_mounts(start, tmp_path, MOUNTS_MAX + 1)
