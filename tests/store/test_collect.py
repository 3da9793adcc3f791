"""Collect what nobody refers to, and nothing else."""

from __future__ import annotations

import json
import os
import time
from functools import partial
from pathlib import Path

from archives import archive, file, folder
from foreign_images import Layout, digest_of, layer

from pytest_rootfs.store import oci
from pytest_rootfs.store.blobs import Descriptor
from pytest_rootfs.store.collect import gc
from pytest_rootfs.store.digests import hex_of
from pytest_rootfs.store.imports import import_image, inflate
from pytest_rootfs.store.locks import claim_file, claim_folder
from pytest_rootfs.store.manifests import read_image
from pytest_rootfs.store.sources import parse_source
from pytest_rootfs.store.store import Store


def image(store: Store, text: str) -> tuple[str, Descriptor]:
    """Store an image of one unpacked layer; return its manifest's digest and the layer."""
    layer = store.blobs.put(archive(folder("."), file(text)), oci.LAYER_TYPE)
    with store.stage_layer("u", None) as staged:
        staged.publish(layer.digest, {})
    return oci.write_image(store, layers=[layer], config={}).digest, layer


def test_unreferenced_image_is_collected(store: Store) -> None:
    digest, layer = image(store, "a")
    store.close()

    collected = gc(store)

    assert (collected.blobs, collected.layers, collected.left) == (3, 1, ())
    assert collected.freed_bytes > 0
    assert not store.blobs.has(digest)
    assert not store.has_layer("u", layer.digest)
    assert os.listdir(store.root / "trash") == []


def test_rw_layers_beside_the_layers_stay(store: Store) -> None:
    (store.root / "layers/u/.rw-1-2-3").mkdir(parents=True)

    collected = gc(store)

    assert collected.layers == 0
    assert (store.root / "layers/u/.rw-1-2-3").is_dir()


def test_tagged_image_stays(store: Store) -> None:
    digest, layer = image(store, "a")
    store.refs.set("app", digest)
    store.close()

    collected = gc(store)

    assert (collected.blobs, collected.layers) == (0, 0)
    assert store.has_layer("u", layer.digest)


def test_kept_failure_stays(store: Store) -> None:
    digest, layer = image(store, "a")
    (store.failures_dir / "f3a9c1").mkdir()
    (store.failures_dir / "f3a9c1" / "failure.json").write_text(json.dumps({"manifest": digest}))
    store.close()

    gc(store)

    assert store.blobs.has(layer.digest)


def test_what_an_open_store_made_stays(store: Store) -> None:
    digest, layer = image(store, "a")

    with Store.open(store.root) as other:
        collected = gc(other)

    assert collected.blobs == 0
    assert store.blobs.has(layer.digest) and store.blobs.has(digest)


def test_explicit_lease_keeps_whole_image(store: Store) -> None:
    digest, _ = image(store, "a")
    store.close()

    with store.lease() as lease:
        lease.hold(digest)
        kept = gc(store)
    gone = gc(store)

    assert (kept.blobs, gone.blobs) == (0, 3)


def test_new_lease_clears_those_of_the_dead(store: Store) -> None:
    dead, fd = claim_file(store.root / "leases")
    os.close(fd)  # as the end of its process does
    living, living_fd = claim_file(store.root / "leases")

    with store.lease():
        left = set((store.root / "leases").iterdir())

    os.close(living_fd)
    assert living in left and dead not in left


def test_recent_step_result_keeps_its_layer(store: Store) -> None:
    _, layer = image(store, "a")
    store.cache.put("ab" * 32, {"layer": layer.digest})
    store.close()

    collected = gc(store)

    assert collected.blobs == 2  # manifest and config
    assert store.has_layer("u", layer.digest)


def test_old_step_result_goes(store: Store) -> None:
    _, layer = image(store, "a")
    store.cache.put("ab" * 32, {"layer": layer.digest})
    (path,) = (store.root / "cache").glob("*/*.json")
    old = time.time() - 100
    os.utime(path, (old, old))
    store.close()

    collected = gc(store, retention_s=50)

    assert (collected.results, collected.blobs, collected.layers) == (1, 3, 1)


def test_only_dead_owners_lose_temporary_files(store: Store) -> None:
    dead_path, dead_fd = claim_folder(store.root / "tmp")
    (dead_path / "x").touch()
    os.close(dead_fd)
    alive_path, alive_fd = claim_file(store.root / "tmp")

    gc(store)

    assert not dead_path.exists()
    assert alive_path.exists()
    os.close(alive_fd)


def test_undeletable_tree_is_told(store: Store) -> None:
    (store.root / "trash" / "x").mkdir()

    def refuse(folder_fd: int, name: bytes) -> int:
        raise PermissionError(1, "no", name)

    collected = gc(store, remove=refuse)

    assert collected.left == ("x: no",)
    assert (store.root / "trash" / "x").exists()


def test_lock_files_go_but_locks_hold(store: Store) -> None:
    with store.lock("held"):
        with store.lock("free"):
            pass
        gc(store)
        left = sorted(os.listdir(store.root / "locks"))

    assert left == ["gc.lock", "held.lock"]


def test_store_shrinks_to_its_size(store: Store, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    for name in ("old", "new"):
        layout.add([layer(name)], name=name)
        image = import_image(store, parse_source(f"oci:{layout.path}:{name}"))
        store.refs.set(name, image.digest)
        with store.stage_layer("u", None) as staged:
            staged.publish(digest_of(layer(name)), {"size": 1 << 20})
    os.utime(store.root / "layers/u" / hex_of(digest_of(layer("old"))) / "meta.json", (0, 0))
    store.close()

    collected = gc(store, size_bytes=3 << 19)

    assert (collected.layers, collected.blobs, collected.results) == (1, 0, 0)
    assert not store.has_layer("u", digest_of(layer("old")))
    assert store.has_layer("u", digest_of(layer("new")))


def test_uncompressed_copies_are_made_again(store: Store, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    layout.add([layer("a")])
    store.refs.set("app", import_image(store, parse_source(f"oci:{layout.path}")).digest)
    store.close()

    collected = gc(store, size_bytes=1)

    (travels,) = read_image(store, store.refs.get("app") or "").layers
    assert (collected.blobs, collected.results) == (1, 0)
    assert collected.size_bytes and collected.size_bytes > 1  # the image has a name
    assert not store.blobs.has(digest_of(layer("a")))
    assert inflate(store, travels, digest_of(layer("a"))).size == len(layer("a"))


def test_shrinking_spares_what_is_used(store: Store) -> None:
    _, unpacked = image(store, "a")  # and held by the open store

    with Store.open(store.root) as other:
        collected = gc(other, size_bytes=1)

    assert (collected.layers, collected.blobs) == (0, 0)
    assert store.has_layer("u", unpacked.digest)


def test_oldest_results_go_first(store: Store) -> None:
    for number, key in enumerate(("1" * 64, "2" * 64, "3" * 64)):
        big = store.blobs.put(os.urandom(200_000), oci.LAYER_TYPE)
        store.cache.put(key, {"layer": big.digest})
        os.utime(store.root / "cache" / key[:2] / f"{key}.json", (number, time.time() - 9 + number))
    store.close()

    collected = gc(store, size_bytes=450_000)

    assert (collected.results, collected.blobs) == (1, 1)
    assert not (store.root / "cache/11" / f"{'1' * 64}.json").exists()


def test_tree_deeper_than_a_path_is_collected(store: Store) -> None:
    parent_fd = os.open(store.root / "trash", os.O_RDONLY)
    try:
        for _ in range(1200):
            os.mkdir("dddd", dir_fd=parent_fd)
            below_fd = os.open("dddd", os.O_RDONLY, dir_fd=parent_fd)
            os.close(parent_fd)
            parent_fd = below_fd
        with open("file", "wb", opener=partial(os.open, dir_fd=parent_fd)) as stream:
            stream.write(bytes(1 << 20))
    finally:
        os.close(parent_fd)

    collected = gc(store)

    assert collected.left == ()
    assert collected.freed_bytes >= 1 << 20
    assert os.listdir(store.root / "trash") == []
