"""Foreign images come into the store as they are, verified, or not at all."""

from __future__ import annotations

import gzip
import io
import json
import os
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from foreign_images import (
    CONFIG,
    LAYER,
    MANIFEST,
    Layout,
    digest_of,
    imported,
    layer,
    tar_of,
)

from pytest_rootfs.errors import ArchiveRejected, LayerCorrupt
from pytest_rootfs.store import imports, oci
from pytest_rootfs.store.imports import find_imported, import_image
from pytest_rootfs.store.sources import find_source, parse_source
from pytest_rootfs.store.store import Store

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LAYERS = [layer("a"), layer("b")]


def stored(store: Store) -> set[str]:
    return set(os.listdir(store.root / "blobs" / "sha256"))


def test_blobs_are_kept_as_they_are(store: Store, layout: Layout) -> None:
    row = layout.add(LAYERS)

    image = imported(store, f"oci:{layout.path}")

    assert image.digest == row["digest"]
    assert store.blobs.read_bytes(row["digest"]) == layout.file(row["digest"]).read_bytes()
    for blob, content in zip(image.layers, LAYERS, strict=True):
        assert store.blobs.read_bytes(blob.digest) == gzip.compress(content, mtime=0)
        assert store.blobs.read_bytes(digest_of(content)) == content


@pytest.mark.parametrize(
    "compress",
    [
        bytes,
        gzip.compress,
        zstd.compress,
        lambda content: gzip.compress(content[:700]) + gzip.compress(content[700:]),
        lambda content: zstd.compress(content[:700]) + zstd.compress(content[700:]),
    ],
    ids=["plain", "gzip", "zstd", "members", "frames"],
)
def test_layer_is_read_however_compressed(
    store: Store, layout: Layout, compress: Callable[[bytes], bytes]
) -> None:
    blobs = [layout.blob(compress(content), LAYER) for content in LAYERS]
    layout.add(LAYERS, blobs=blobs)

    image = imported(store, f"oci:{layout.path}")

    assert [store.blobs.read_bytes(each) for each in image.diff_ids] == LAYERS


def test_same_layer_twice_is_one_blob(store: Store, layout: Layout) -> None:
    layout.add([LAYERS[0], LAYERS[0]])

    image = imported(store, f"oci:{layout.path}")

    assert image.diff_ids == (digest_of(LAYERS[0]),) * 2


@pytest.mark.parametrize(
    ("manifest", "rule"),
    [
        ({"mediaType": "application/vnd.docker.distribution.manifest.v2+json"}, "was announced as"),
        ({"config": {"digest": "sha256:" + "1" * 64, "size": 2, "mediaType": "x"}}, "of no image"),
        ({"schemaVersion": 1}, "schema version 1"),
    ],
)
def test_odd_manifest_is_refused(
    store: Store, layout: Layout, manifest: dict[str, object], rule: str
) -> None:
    layout.add(LAYERS, manifest=manifest)

    with pytest.raises(ArchiveRejected, match=rule):
        imported(store, f"oci:{layout.path}")


def test_unknown_layer_type_is_refused(store: Store, layout: Layout) -> None:
    blob = layout.blob(LAYERS[0], f"{LAYER}+encrypted")
    layout.add(LAYERS[:1], blobs=[blob])

    with pytest.raises(ArchiveRejected, match=r"of an unknown kind: .*encrypted"):
        imported(store, f"oci:{layout.path}")


def damage(path: Path) -> None:
    """Flip a bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("part", ["manifest", "config", "layer"])
def test_flipped_bit_is_noticed(store: Store, layout: Layout, part: str) -> None:
    row = layout.add(LAYERS)
    manifest = json.loads(layout.file(row["digest"]).read_bytes())
    parts = {"manifest": row, "config": manifest["config"], "layer": manifest["layers"][0]}
    wanted = parts[part]["digest"]
    damage(layout.file(wanted))

    with pytest.raises(LayerCorrupt) as refused:
        imported(store, f"oci:{layout.path}")

    assert wanted in str(refused.value) and "digest" in refused.value.detail + refused.value.what
    assert wanted.partition(":")[2] not in stored(store)
    assert os.listdir(store.root / "tmp") == []


@pytest.mark.parametrize("change", [1, -1])
def test_announced_size_must_be_right(store: Store, layout: Layout, change: int) -> None:
    blob = layout.blob(gzip.compress(LAYERS[0]), f"{LAYER}+gzip")
    layout.add(LAYERS[:1], blobs=[{**blob, "size": blob["size"] + change}])

    with pytest.raises(LayerCorrupt, match="is not what its digest says") as refused:
        imported(store, f"oci:{layout.path}")

    assert f"where {blob['size'] + change} were announced" in refused.value.detail


def test_wrong_diff_id_is_refused(store: Store, layout: Layout) -> None:
    layout.add(LAYERS[:1], diff_ids=[digest_of(LAYERS[1])])

    with pytest.raises(LayerCorrupt) as refused:
        imported(store, f"oci:{layout.path}")

    expected, found = digest_of(LAYERS[1]), digest_of(LAYERS[0])
    assert refused.value.detail == f"expected {expected}, found {found}"
    assert not store.blobs.has(expected) and not store.blobs.has(found)


def test_missing_layer_is_told(store: Store, layout: Layout) -> None:
    row = layout.add(LAYERS)
    gone = json.loads(layout.file(row["digest"]).read_bytes())["layers"][1]["digest"]
    layout.file(gone).unlink()

    with pytest.raises(LayerCorrupt, match="is incomplete: it has no blobs/sha256/") as refused:
        imported(store, f"oci:{layout.path}")

    assert gone.partition(":")[2] in refused.value.what


@pytest.mark.parametrize("kind", ["link", "folder link", "pipe"])
def test_H54_only_regular_files_are_blobs(
    store: Store, layout: Layout, tmp_path: Path, kind: str
) -> None:
    row = layout.add(LAYERS)
    blob = layout.file(row["digest"])
    if kind == "folder link":
        (layout.path / "blobs").rename(tmp_path / "elsewhere")
        (layout.path / "blobs").symlink_to(tmp_path / "elsewhere")
    else:
        blob.rename(tmp_path / "elsewhere")
        blob.symlink_to(tmp_path / "elsewhere") if kind == "link" else os.mkfifo(blob)

    with pytest.raises(ArchiveRejected, match="is not a regular file"):
        imported(store, f"oci:{layout.path}")


@pytest.mark.parametrize(
    ("scheme", "make"),
    [("oci", lambda layout, _: layout), ("oci-archive", tar_of)],
)
def test_complete_image_is_known(
    store: Store, layout: Layout, tmp_path: Path, scheme: str, make: Callable[[Path, Path], Path]
) -> None:
    row = layout.add(LAYERS)
    source = parse_source(f"{scheme}:{make(layout.path, tmp_path / 'x.tar')}")
    assert find_imported(store, source) is None

    import_image(store, source)

    assert find_imported(store, source) == row["digest"]


def test_unchanged_archive_is_not_read_again(
    store: Store, layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = layout.add(LAYERS)
    path = tar_of(layout.path, tmp_path / "x.tar")
    monkeypatch.setattr(imports, "_SETTLED_S", -1.0)
    source = parse_source(f"oci-archive:{path}")
    import_image(store, source)
    layout.add(LAYERS[:1])
    monkeypatch.setattr(imports, "open_source", None)

    assert import_image(store, source).digest == row["digest"]


def test_changed_archive_is_read_again(
    store: Store, layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout.add(LAYERS)
    monkeypatch.setattr(imports, "_SETTLED_S", -1.0)
    source = parse_source(f"oci-archive:{tar_of(layout.path, tmp_path / 'x.tar')}")
    import_image(store, source)
    layout.rows.clear()
    row = layout.add(LAYERS[:1])
    tar_of(layout.path, tmp_path / "x.tar")

    assert import_image(store, source).digest == row["digest"]


def test_archive_just_written_is_not_remembered(
    store: Store, layout: Layout, tmp_path: Path
) -> None:
    layout.add(LAYERS)
    path = tar_of(layout.path, tmp_path / "x.tar")
    os.utime(path, (time.time() - 60,) * 2)  # what was changed is told by ctime

    imported(store, f"oci-archive:{path}")

    assert list((store.root / "cache").rglob("*.json")) == []


@pytest.mark.parametrize("kind", ["oci", "docker", "dir"])
def test_import_and_export_are_inverse(
    store: Store, layout: Layout, tmp_path: Path, kind: oci.Format
) -> None:
    row = layout.add(LAYERS)
    image = imported(store, f"oci:{layout.path}")

    oci.export(store, image.digest, tmp_path / "out", format=kind, name="x")

    with Store.open(tmp_path / "other") as other:
        again = oci.read_image(
            other, import_image(other, find_source(str(tmp_path / "out"))).digest
        )
        assert again.diff_ids == image.diff_ids
        assert again.config_blob.digest == image.config_blob.digest
        assert kind == "docker" or again.digest == row["digest"]


def test_export_remakes_uncompressed_layers(store: Store, layout: Layout, tmp_path: Path) -> None:
    layout.add(LAYERS)
    image = imported(store, f"oci:{layout.path}")
    store.blobs.path(image.diff_ids[0]).unlink()

    oci.export(store, image.digest, tmp_path / "x.tar", format="docker", name="x")

    with tarfile.open(tmp_path / "x.tar") as archived:
        name = f"{image.diff_ids[0].partition(':')[2]}.tar"
        assert (archived.extractfile(name) or io.BytesIO()).read() == LAYERS[0]


def test_progress_hears_of_every_layer(store: Store, layout: Layout) -> None:
    row = layout.add(LAYERS)
    heard: list[object] = []

    class Progress:
        def begin(self, layers: int) -> None:
            heard.append(layers)

        def layer(self, digest: str, *, size: int | None, is_known: bool) -> None:
            heard.append((digest, size, is_known))

        def advance(self, size: int) -> None:
            heard.append(size)

    import_image(store, parse_source(f"oci:{layout.path}"), progress=Progress())
    import_image(store, parse_source(f"oci:{layout.path}"), progress=Progress())

    ids = [digest_of(each) for each in LAYERS]
    sizes = [each["size"] for each in json.loads(layout.file(row["digest"]).read_bytes())["layers"]]
    first = [2, (ids[0], sizes[0], False), sizes[0], (ids[1], sizes[1], False), sizes[1]]
    assert heard == [*first, 2, (ids[0], sizes[0], True), (ids[1], sizes[1], True)]


def test_types_of_docker_are_known(store: Store, layout: Layout) -> None:
    docker = "application/vnd.docker."
    blob = layout.blob(gzip.compress(LAYERS[0]), f"{docker}image.rootfs.diff.tar.gzip")
    config = layout.document(
        {"rootfs": {"diff_ids": [digest_of(LAYERS[0])]}}, f"{docker}container.image.v1+json"
    )
    kind = f"{docker}distribution.manifest.v2+json"
    document = {"schemaVersion": 2, "mediaType": kind, "config": config, "layers": [blob]}
    layout.rows = [layout.document(document, kind)]
    layout.write_index()

    image = imported(store, f"oci:{layout.path}")

    assert image.media_type == kind


def test_media_types_are_the_specification_s() -> None:
    assert (MANIFEST, CONFIG, LAYER) == (oci.MANIFEST_TYPE, oci.CONFIG_TYPE, oci.LAYER_TYPE)
