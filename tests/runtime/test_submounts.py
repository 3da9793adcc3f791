"""What is mounted below a folder that a container shows, and takes no id map, is never left out."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from error_form import assert_well_formed
from features import needs

from pytest_rootfs.engine import Engine
from pytest_rootfs.errors import ContainerError
from pytest_rootfs.runtime.spec import ContainerOptions

if TYPE_CHECKING:
    from conftest import Start

pytestmark = needs("root")


@pytest.fixture
def proc(tmp_path: Path) -> Iterator[Path]:
    """Mount a proc, which takes no id map, below a folder of the host."""
    place = tmp_path / "folder/a proc"
    place.mkdir(parents=True)
    subprocess.run(["mount", "-t", "proc", "proc", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.fixture
def mount_tmpfs() -> Iterator[Callable[[Path], None]]:
    """Mount file systems on the host, as root, until the end of the test."""
    mounted: list[Path] = []

    def mount(path: Path) -> None:
        path.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "test", path], check=True)
        mounted.append(path)

    yield mount
    for path in reversed(mounted):
        subprocess.run(["umount", path], check=True)


def refusal(engine: Engine, source: Path) -> ContainerError:
    options = ContainerOptions.from_keywords({"mounts": [(source, "/mnt/here")]})
    with pytest.raises(ContainerError) as caught:
        engine.start("minimal", options=options)
    assert_well_formed(caught.value)
    return caught.value


def test_mount_below_that_takes_no_id_map_is_named(engine: Engine, proc: Path) -> None:
    error = refusal(engine, proc.parent)

    assert error.what == (
        f"cannot mount {proc.parent}: {proc} below it takes no id map, which root's containers need"
    )
    assert "copy_in" in error.hint


def test_source_that_takes_no_id_map_is_named(engine: Engine, proc: Path) -> None:
    error = refusal(engine, proc)

    assert error.what.startswith(f"cannot mount {proc}: its file system takes no id map")


@needs("mapped tmpfs")
def test_readonly_holds_for_file_systems_below(
    start: Start, tmp_path: Path, mount_tmpfs: Callable[[Path], None]
) -> None:
    mount_tmpfs(tmp_path / "below")
    (tmp_path / "below/x").write_text("below")

    container = start(mounts=[(tmp_path, "/mnt/here")])
    done = container.run("cat /mnt/here/below/x; touch /mnt/here/below/y", check=False)

    assert done.stdout == "below"
    assert "Read-only file system" in done.stderr


def test_mounts_of_the_host_do_not_come_later(
    start: Start, tmp_path: Path, mount_tmpfs: Callable[[Path], None]
) -> None:
    (tmp_path / "below").mkdir()
    container = start(mounts=[(tmp_path, "/mnt/here")])

    mount_tmpfs(tmp_path / "below")
    (tmp_path / "below/x").write_text("later")

    assert not container.path("/mnt/here/below/x").exists()
