"""A container becomes an image."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_rootfs.engine import Engine
from pytest_rootfs.errors import ImageError
from pytest_rootfs.image import Image
from pytest_rootfs.runtime.container import Container
from pytest_rootfs.store import oci
from pytest_rootfs.store.tar_reader import read_entries

if TYPE_CHECKING:
    from conftest import Start


@pytest.fixture
def tags(engine: Engine) -> Iterator[Engine]:
    """Remove the tags that a test gives."""
    yield engine
    for tag in engine.store.refs.list():
        engine.store.refs.delete(tag)


def names(engine: Engine, digest: str) -> set[bytes]:
    with engine.store.blobs.open(digest) as blob:
        return {entry.name for entry, _ in read_entries(blob)}


@pytest.mark.parametrize("image", ["minimal", "scratch"])
def test_committed_image_has_the_files(start: Start, image: str) -> None:
    container = start(image)
    container.path("/opt").mkdir(exist_ok=True)
    container.path("/opt/new").write_text("x")

    committed = start(container.commit())

    assert committed.path("/opt/new").read_text() == "x"
    assert committed.changes() == {}
    assert committed.built.layers[:-1] == container.built.layers


def test_tag_finds_the_image(start: Start, tags: Engine, container: Container) -> None:
    container.run("echo 1 > /f")

    image = container.commit("team/app:1")

    assert image.name == "team/app:1"
    assert start("team/app:1").run(["cat", "/f"]).stdout == "1\n"
    assert start(Image("team/app:1")).built.digest == start(image).built.digest


def test_committed_image_is_extended(start: Start, container: Container) -> None:
    container.run("echo 1 > /f")

    image = container.commit().run("echo 2 >> /f").env(A="b")

    assert start(image).run("cat /f; echo $A").stdout == "1\n2\nb\n"


def test_committed_image_is_exported(engine: Engine, container: Container, tmp_path: Path) -> None:
    container.run("echo 1 > /f")
    image = container.commit()

    engine.builder.export(image, tmp_path / "app", format="dir")

    index = json.loads((tmp_path / "app/index.json").read_text())
    assert [each["digest"] for each in index["manifests"]] == [image.reference]


def test_commit_holds_only_changes(engine: Engine, start: Start, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("of the host")
    container = start(mounts=[(tmp_path, "/mnt/here", "rw")], tmpfs=["/scratch"])
    container.run("echo > /etc/hosts; echo > /scratch/x; echo > /dev/shm/x; echo > /mnt/here/y")
    container.run("mkdir /d; echo > /d/f; rm /etc/passwd")

    image = container.commit()

    layer = engine.builder.build(image).layers[-1]
    assert names(engine, layer) == {b".", b"d", b"d/f", b"etc", b"etc/.wh.passwd"}


def test_fork_is_committed_as_one_layer(engine: Engine, container: Container) -> None:
    container.run("echo 1 > /f; echo > /gone")
    with container.fork() as forked:
        forked.run("echo 2 > /g; rm /gone")
        image = forked.commit()

    built = engine.builder.build(image)
    assert built.layers[:-1] == container.built.layers
    assert names(engine, built.layers[-1]) == {b".", b"f", b"g"}


def test_configuration_is_the_images(engine: Engine, start: Start) -> None:
    base = Image("minimal").env(A="b").workdir("/opt").user("12").label(team="x")
    container = start(base, env={"OF": "the test"}, user="0")
    container.run("echo > /f")

    image = container.commit()

    built = engine.builder.build(image)
    assert built.config == container.built.config
    history = oci.read_image(engine.store, built.digest).config["history"]
    assert history[-1]["created_by"] == "commit of a container"
    below = oci.read_image(engine.store, container.built.digest).config["history"]
    assert history[:-1] == below


def test_unchanged_container_adds_no_layer(engine: Engine, container: Container) -> None:
    image = container.commit()

    built = engine.builder.build(image)
    assert built.layers == container.built.layers
    history = oci.read_image(engine.store, built.digest).config["history"]
    assert history[-1]["empty_layer"] is True


def test_same_files_make_one_image(container: Container) -> None:
    container.run("echo > /f")

    assert container.commit() == container.commit()


def test_dead_container_is_committed(start: Start, container: Container) -> None:
    container.run("echo 1 > /f")
    container.kill()

    assert start(container.commit()).run(["cat", "/f"]).stdout == "1\n"


def test_host_image_is_refused(start: Start) -> None:
    container = start("host", name="view")

    with pytest.raises(ImageError, match="container view cannot be committed: its image host is"):
        container.commit()


def test_bad_tag_is_refused_first(container: Container) -> None:
    with pytest.raises(ImageError, match="'oci:x' cannot be a tag"):
        container.commit("oci:x")


def test_committed_container_goes_on(container: Container) -> None:
    container.run("echo 1 > /f")
    container.commit()

    container.run("echo 2 > /f")

    assert container.changes() == {"/f": "added"}
