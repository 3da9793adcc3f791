"""What images stand on: foreign images in the store, and what builds make of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from building import Session, texts
from foreign_images import Layout, digest_of, layer

from pytest_rootfs.builder import Builder
from pytest_rootfs.errors import ArchiveRejected, LayerCorrupt
from pytest_rootfs.image import Image
from pytest_rootfs.store import oci
from pytest_rootfs.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def builder(store: Store) -> Builder:
    return Builder(store, Session(store))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


def test_foreign_image_keeps_its_digest(builder: Builder, layout: Layout) -> None:
    row = layout.add([layer("a")])

    built = builder.build(f"oci:{layout.path}")

    assert built.digest == row["digest"]
    assert built.layers == (digest_of(layer("a")),)
    assert built.size == len(layer("a"))
    assert builder.tag(built, "app").digest == row["digest"]


def test_relative_path_starts_at_the_base(store: Store, layout: Layout) -> None:
    row = layout.add([layer("a")])
    builder = Builder(store, Session(store), base=layout.path.parent)

    built = builder.build("oci:layout")

    assert (built.digest, built.name) == (row["digest"], "oci:layout")


def test_steps_keep_what_they_do_not_know(store: Store, builder: Builder, layout: Layout) -> None:
    layout.add([layer("a")], config={"history": [{"created_by": "them"}]})

    built = builder.build(Image(f"oci:{layout.path}").file("/x", "y").env(B="c"))

    config = oci.read_image(store, built.digest).config
    assert config["config"] == {"Env": ["A=b", "B=c"], "ExposedPorts": {"80/tcp": {}}}
    steps = [step["created_by"] for step in config["history"]]
    assert steps[0] == "them" and len(steps) == 3
    assert texts(store, built)["x"] == "y"


@pytest.mark.parametrize("history", [None, [], [{"empty_layer": True}], [{}, {}, {}]])
def test_history_that_misses_layers_is_replaced(
    store: Store, builder: Builder, layout: Layout, history: object
) -> None:
    layout.add([layer("a")], config={"history": history})

    built = builder.build(Image(f"oci:{layout.path}").env(B="c"))

    steps = [step["created_by"] for step in oci.read_image(store, built.digest).config["history"]]
    assert steps == [f"layer {digest_of(layer('a'))}", "env B=c"]


def test_foreign_image_is_known_when_imported(builder: Builder, layout: Layout) -> None:
    layout.add([layer("a")])
    assert builder.known(f"oci:{layout.path}") is None

    builder.build(f"oci:{layout.path}")

    assert builder.known(f"oci:{layout.path}") is not None


def test_uncompressed_layer_is_made_again(store: Store, builder: Builder, layout: Layout) -> None:
    layout.add([layer("a")])
    built = builder.build(f"oci:{layout.path}")
    store.blobs.path(built.layers[0]).unlink()
    with Store.open(store.root) as other:
        again = Builder(other, Session(other))
        assert again.known(built.digest) is None

        assert again.build(built.digest).layers == built.layers

        assert other.blobs.read_bytes(built.layers[0]) == layer("a")


def test_damaged_layer_is_never_built_upon(store: Store, builder: Builder, layout: Layout) -> None:
    layout.add([layer("a")])
    path = store.blobs.path(builder.build(f"oci:{layout.path}").layers[0])
    os.chmod(path, 0o644)
    path.write_bytes(path.read_bytes().replace(b"srv/a", b"srv/b"))

    with pytest.raises(LayerCorrupt, match="is damaged"):
        builder.build(Image(f"oci:{layout.path}").file("/srv/x", "y"))

    remembered = [path.read_text() for path in (store.root / "cache").rglob("*.json")]
    assert not any("srv/b" in text for text in remembered)


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"Env": ["A"]}, "Env"),
        ({"Entrypoint": "sh"}, "Entrypoint"),
        ({"WorkingDir": 7}, "WorkingDir"),
        ([], "config is list"),
    ],
)
def test_odd_config_names_its_field(
    builder: Builder, layout: Layout, config: object, field: str
) -> None:
    layout.add([layer("a")], config={"config": config})

    with pytest.raises(ArchiveRejected, match=field):
        builder.build(f"oci:{layout.path}")
