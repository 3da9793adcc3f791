"""What is mounted below a folder that a container shows, and takes no id map, is never left out."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from error_form import assert_well_formed
from features import needs

from pytest_rootfs.engine import Engine
from pytest_rootfs.errors import ContainerError
from pytest_rootfs.runtime.spec import ContainerOptions

pytestmark = needs("root")


@pytest.fixture
def proc(tmp_path: Path) -> Iterator[Path]:
    """Mount a proc, which takes no id map, below a folder of the host."""
    place = tmp_path / "folder/a proc"
    place.mkdir(parents=True)
    subprocess.run(["mount", "-t", "proc", "proc", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


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
