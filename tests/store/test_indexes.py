"""Indexes: the image that a name, a digest or this machine's platform means."""

from __future__ import annotations

import base64
import os

import pytest
from foreign_images import (
    INDEX,
    Layout,
    imported,
    layer,
)

from pytest_rootfs.errors import ArchiveRejected, ImageError, ImageNotFound
from pytest_rootfs.store import platforms
from pytest_rootfs.store.store import Store

LAYERS = [layer("a"), layer("b")]
HERE = platforms.platform()
ELSEWHERE = {"architecture": "s390x", "os": "linux"}


@pytest.mark.parametrize("suffix", [":one", ":two", "@DIGEST"])
def test_name_in_layout_is_found(store: Store, layout: Layout, suffix: str) -> None:
    rows = {":one": layout.add(LAYERS[:1], name="one"), ":two": layout.add(LAYERS, name="two")}
    wanted = rows.get(suffix, rows[":one"])["digest"]

    image = imported(store, f"oci:{layout.path}{suffix.replace('DIGEST', wanted)}")

    assert image.digest == wanted


def test_several_images_need_a_name(store: Store, layout: Layout) -> None:
    layout.add(LAYERS[:1], name="one")
    layout.add(LAYERS, name="two")

    with pytest.raises(ImageError, match="has 2 images that could be meant") as refused:
        imported(store, f"oci:{layout.path}")
    with pytest.raises(ImageNotFound, match="has no image three") as missing:
        imported(store, f"oci:{layout.path}:three")

    assert refused.value.detail == missing.value.detail == "it has one, two"


def test_two_names_of_one_image_are_one(store: Store, layout: Layout) -> None:
    row = layout.add(LAYERS, name="one")
    layout.add(LAYERS, name="two")

    assert imported(store, f"oci:{layout.path}").digest == row["digest"]


def test_own_platform_is_chosen(store: Store, layout: Layout) -> None:
    inner = [
        layout.add(LAYERS[:1], platform=ELSEWHERE),
        layout.add(LAYERS, platform=HERE),
        layout.add([], platform={"architecture": "unknown", "os": "unknown"}),
    ]
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": inner}
    layout.rows = [layout.document(index, INDEX)]
    layout.write_index()

    assert imported(store, f"oci:{layout.path}").digest == inner[1]["digest"]


def test_other_platforms_are_listed(store: Store, layout: Layout) -> None:
    layout.add(LAYERS, platform={**ELSEWHERE, "variant": "v9"})

    with pytest.raises(ImageNotFound, match=r"has no image for linux/") as refused:
        imported(store, f"oci:{layout.path}")

    assert refused.value.detail == "it has linux/s390x/v9"


@pytest.mark.parametrize(
    ("machine", "variant", "expected"),
    [
        ("armv7l", "v7", 9),
        ("armv7l", "", 8),
        ("armv7l", "v6", 6),
        ("armv6l", "v7", 0),
        ("aarch64", "v8", 9),
        ("aarch64", "v9", 0),
        ("x86_64", "", 9),
        ("x86_64", "v3", 0),
    ],
)
def test_variant_must_run_here(
    monkeypatch: pytest.MonkeyPatch, machine: str, variant: str, expected: int
) -> None:
    found = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((*found[:4], machine)))
    offered = {**platforms.platform(), "variant": variant}

    assert platforms.fitness(offered) == expected


def test_H48_indexes_end_somewhere(store: Store, layout: Layout) -> None:
    row = layout.add(LAYERS)
    for _ in range(4):
        row = layout.document({"schemaVersion": 2, "mediaType": INDEX, "manifests": [row]}, INDEX)
    layout.rows = [row]
    layout.write_index()

    with pytest.raises(ArchiveRejected, match="more than 3 deep"):
        imported(store, f"oci:{layout.path}")


@pytest.mark.parametrize(
    ("index", "rule"),
    [
        ({"layers": []}, "two kinds of document"),
        ({"Manifests": []}, "two kinds of document"),
        ({"schemaVersion": 1}, "the schema version 1"),
        ({"manifests": {}}, "lists no manifests"),
        ({"manifests": [{}] * 1001}, "lists 1001 manifests"),
        ({"manifests": [{"digest": "sha256:../x", "size": 1, "mediaType": "x"}]}, "the digest"),
    ],
)
def test_odd_index_is_refused(
    store: Store, layout: Layout, index: dict[str, object], rule: str
) -> None:
    layout.write_index(**index)

    with pytest.raises(ArchiveRejected, match=rule):
        imported(store, f"oci:{layout.path}")


@pytest.mark.parametrize("data", ["QQ==", "not base64", 7])
def test_embedded_data_must_match(store: Store, layout: Layout, data: object) -> None:
    row = layout.add(LAYERS)
    row["data"] = data
    layout.write_index()

    with pytest.raises(ArchiveRejected, match="whose data is not sha256:"):
        imported(store, f"oci:{layout.path}")


def test_right_embedded_data_is_accepted(store: Store, layout: Layout) -> None:
    row = layout.add(LAYERS)
    row["data"] = base64.b64encode(layout.file(row["digest"]).read_bytes()).decode()
    layout.write_index()

    assert imported(store, f"oci:{layout.path}").digest == row["digest"]
