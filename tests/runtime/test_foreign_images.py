"""Containers of images that other tools have made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from archives import archive, file, folder, link
from foreign_images import Layout, docker_archive, layer, tar_of

from pytest_rootfs.errors import ImageError
from pytest_rootfs.image import Image

if TYPE_CHECKING:
    from conftest import Start

LAYERS = [
    archive(folder("."), folder("etc"), file("etc/gone", b"1"), file("etc/kept", b"2")),
    archive(folder("."), folder("etc"), file("etc/.wh.gone", mode=0), link("etc/l", "kept")),
]


def as_layout(path: Path) -> str:
    Layout(path / "layout").add(LAYERS)
    return f"oci:{path}/layout"


def as_archive(path: Path) -> str:
    as_layout(path)
    return f"oci-archive:{tar_of(path / 'layout', path / 'x.tar')}"


def as_docker_archive(path: Path) -> str:
    return f"docker-archive:{docker_archive(path / 'x.tar', LAYERS)}"


@pytest.mark.parametrize("make", [as_layout, as_archive, as_docker_archive])
def test_files_are_those_of_the_layers(
    start: Start, tmp_path: Path, make: Callable[[Path], str]
) -> None:
    container = start(make(tmp_path))

    names = sorted(path.name for path in container.path("/etc").iterdir())
    assert {"kept", "l"} <= set(names) and "gone" not in names
    assert container.path("/etc/l").read_text() == "2"


def test_steps_stand_on_a_foreign_image(start: Start, tmp_path: Path) -> None:
    container = start(Image(as_layout(tmp_path)).file("/etc/more", "3"))

    assert container.path("/etc/more").read_text() == "3"
    assert container.path("/etc/kept").read_text() == "2"
    assert container.built.config.env == ("A=b",)


def test_plain_folder_keeps_its_modes(start: Start, tmp_path: Path) -> None:
    (tmp_path / "tree" / "opt").mkdir(parents=True)
    (tmp_path / "tree" / "opt").chmod(0o1777)
    (tmp_path / "tree" / "opt" / "tool").write_text("tool")
    (tmp_path / "tree" / "opt" / "tool").chmod(0o4750)

    container = start(f"dir:{tmp_path}/tree")

    found = container.path("/opt/tool").stat()
    assert (found.st_mode & 0o7777, found.st_uid, found.st_gid) == (0o4750, 0, 0)
    assert container.path("/opt").stat().st_mode & 0o7777 == 0o1777


@pytest.mark.slow
def test_image_may_have_more_than_128_layers(start: Start, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layout.add([layer(f"{number:03}") for number in range(140)])

    container = start(f"oci:{layout.path}")

    assert len(list(container.path("/srv").iterdir())) == 140
    assert container.path("/srv/000").read_text().startswith("000")


@pytest.mark.slow
def test_image_of_too_many_layers_is_told(start: Start, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layout.add([layer(f"{number:03}") for number in range(500)])

    with pytest.raises(ImageError, match="cannot mount 500 layers of an image: the limit is 499"):
        start(f"oci:{layout.path}")


@pytest.mark.slow
def test_snapshot_beyond_the_last_layer_is_told(start: Start, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layout.add([layer(f"{number:03}") for number in range(499)])
    container = start(f"oci:{layout.path}")
    container.path("/new").touch()
    snapshot = container.snapshot()

    with pytest.raises(ImageError, match="cannot mount 500 layers"):
        container.reset(snapshot)

    assert container.path("/new").exists()
