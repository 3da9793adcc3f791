"""What `docker save` writes: read whole, verified by its config, or refused."""

from __future__ import annotations

import gzip
import os
import tarfile
from pathlib import Path

import pytest
from foreign_images import (
    digest_of,
    docker_archive,
    imported,
    layer,
)

from pytest_rootfs.errors import ArchiveRejected, ImageError, LayerCorrupt
from pytest_rootfs.store.store import Store

LAYERS = [layer("a"), layer("b")]


def test_docker_archive_is_verified_by_diff_ids(store: Store, tmp_path: Path) -> None:
    docker_archive(tmp_path / "x.tar", LAYERS)

    image = imported(store, f"docker-archive:{tmp_path}/x.tar")

    assert image.diff_ids == tuple(map(digest_of, LAYERS))
    assert [each.digest for each in image.layers] == list(image.diff_ids)


def test_compressed_docker_archive_is_read(store: Store, tmp_path: Path) -> None:
    plain = docker_archive(tmp_path / "x.tar", LAYERS)
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(plain.read_bytes()))

    found = imported(store, f"docker-archive:{tmp_path}/x.tar.gz")

    assert found.digest == imported(store, f"docker-archive:{plain}").digest
    assert os.listdir(store.root / "tmp") == []


@pytest.mark.parametrize(
    "name", ["app:1", "docker.io/library/app:1", "other", "docker.io/team/other:latest"]
)
def test_docker_names_are_completed(store: Store, tmp_path: Path, name: str) -> None:
    path = docker_archive(tmp_path / "x.tar", LAYERS, tags=["app:1", "other", "team/other"])

    assert imported(store, f"docker-archive:{path}:{name}").diff_ids[0] == digest_of(LAYERS[0])


def test_linked_layers_of_old_docker_are_followed(store: Store, tmp_path: Path) -> None:
    symbolic, hard = tarfile.TarInfo("x/layer.tar"), tarfile.TarInfo("y/layer.tar")
    symbolic.type, symbolic.linkname = tarfile.SYMTYPE, "../0/layer.tar"
    hard.type, hard.linkname = tarfile.LNKTYPE, "1/layer.tar"
    names = ["x/layer.tar", "y/layer.tar"]

    path = docker_archive(tmp_path / "x.tar", LAYERS, names=names, extra=[symbolic, hard])

    assert imported(store, f"docker-archive:{path}").diff_ids == tuple(map(digest_of, LAYERS))


@pytest.mark.parametrize("target", ["../../etc/passwd", "/etc/passwd", "x/layer.tar"])
def test_H55_links_stay_in_the_archive(store: Store, tmp_path: Path, target: str) -> None:
    link = tarfile.TarInfo("x/layer.tar")
    link.type, link.linkname = tarfile.SYMTYPE, target
    names = ["x/layer.tar", "1/layer.tar"]
    path = docker_archive(tmp_path / "x.tar", LAYERS, names=names, extra=[link])

    with pytest.raises(LayerCorrupt, match=r'is incomplete: it has no "x/layer.tar"'):
        imported(store, f"docker-archive:{path}")


@pytest.mark.parametrize(
    ("manifest", "rule"),
    [
        (b"[]", "has no image at all"),
        (b"{}", "is not a list of images"),
        (b'[], "more": 1', "is not a list of images"),
        (b"[7]", "lists something that is no image"),
        (b'[{"Config": 7, "Layers": []}]', "without Config or Layers"),
        (b'[{"Config": "../config.json", "Layers": []}]', "the name contains `..`"),
        (b'[{"Config": "config.json", "Layers": ["0/layer.tar"]}]', "lists 1 layers, the config 2"),
        (b'[{"Config": "none", "Layers": []}]', 'it has no "none"'),
        (b"[" * 5000, "is not valid JSON"),
        (b"[" + b" " * (1 << 20) + b"]", "more than 1048576 bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_H55_odd_docker_manifest_is_refused(
    store: Store, tmp_path: Path, manifest: bytes, rule: str
) -> None:
    path = docker_archive(tmp_path / "x.tar", LAYERS, manifest=manifest)

    with pytest.raises(ImageError) as refused:
        imported(store, f"docker-archive:{path}")

    assert rule in refused.value.what


def test_damaged_docker_layer_is_noticed(store: Store, tmp_path: Path) -> None:
    path = docker_archive(tmp_path / "x.tar", LAYERS)
    path.write_bytes(path.read_bytes().replace(b"a" * 1000, b"a" * 999 + b"b"))

    with pytest.raises(LayerCorrupt, match=f"layer {digest_of(LAYERS[0])} is not what"):
        imported(store, f"docker-archive:{path}")


def test_archive_cut_short_is_refused(store: Store, tmp_path: Path) -> None:
    path = docker_archive(tmp_path / "x.tar", LAYERS)
    os.truncate(path, 3000)

    with pytest.raises(ArchiveRejected, match=r"cannot be read as an archive: .*cut off"):
        imported(store, f"docker-archive:{path}")
