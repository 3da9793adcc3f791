"""What is damaged in a store is found, told in a sentence, never used, and repaired."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from foreign_images import Layout, digest_of, layer
from publishing import DIFF_ID, publish_everything

from pytest_rootfs.errors import LayerCorrupt
from pytest_rootfs.store import oci
from pytest_rootfs.store.checks import fsck
from pytest_rootfs.store.imports import import_image, inflate
from pytest_rootfs.store.sources import parse_source
from pytest_rootfs.store.store import Store

LAYER = layer("a")


@pytest.fixture
def layout(store: Store, tmp_path: Path) -> Layout:
    """Put a tagged image, an unpacked layer and a result into the store."""
    made = Layout(tmp_path / "layout")
    made.add([LAYER])
    publish_everything(store.root, made.path)
    return made


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    os.chmod(path, 0o644)
    path.write_bytes(content)


def found(store: Store) -> dict[str, str]:
    return {problem.path: problem.what for problem in fsck(store).problems}


def repaired(store: Store) -> bool:
    """Repair what can be, and tell whether that was all."""
    report = fsck(store, repair=True)
    return report.problems == report.repaired != ()


def blob(store: Store, part: str) -> Path:
    image = oci.read_image(store, store.refs.get("app") or "")
    digests = {
        "manifest": image.digest,
        "config": image.config_blob.digest,
        "layer": image.layers[0].digest,
        "copy": image.diff_ids[0],
    }
    return store.blobs.path(digests[part])


def test_sound_store_has_no_problem(store: Store, layout: Layout) -> None:
    report = fsck(store)

    assert (report.blobs, report.layers, report.problems) == (4, 1, ())


@pytest.mark.parametrize("part", ["manifest", "config", "layer", "copy"])
def test_flipped_bit_in_blob_is_found(store: Store, layout: Layout, part: str) -> None:
    path = blob(store, part)
    flip(path)

    problems = found(store)

    name = f"blobs/sha256/{path.name}"
    assert problems[name] == (
        f"is damaged: its content has the digest {digest_of(path.read_bytes())}"
    )
    assert ("refs/app" in problems) == (part in ("manifest", "config"))


@pytest.mark.parametrize("part", ["manifest", "config", "layer", "copy"])
def test_repaired_blob_is_imported_again(store: Store, layout: Layout, part: str) -> None:
    flip(blob(store, part))

    fsck(store, repair=True)
    import_image(store, parse_source(f"oci:{layout.path}"))

    assert found(store) == {}


@pytest.mark.parametrize("part", ["manifest", "config"])
def test_damaged_document_is_never_used(store: Store, layout: Layout, part: str) -> None:
    path = blob(store, part)
    flip(path)

    with pytest.raises(LayerCorrupt) as refused:
        oci.read_image(store, store.refs.get("app") or "")

    assert path.name in refused.value.what
    assert digest_of(path.read_bytes()) in refused.value.detail
    assert "fsck --repair" in refused.value.hint


@pytest.mark.parametrize("kind", ["oci", "docker", "dir"])
def test_damaged_layer_is_never_exported(
    store: Store, layout: Layout, tmp_path: Path, kind: oci.Format
) -> None:
    path = blob(store, "copy" if kind == "docker" else "layer")
    flip(path)

    with pytest.raises(LayerCorrupt, match=path.name):
        oci.export(store, store.refs.get("app") or "", tmp_path / "out", format=kind)

    assert not (tmp_path / "out").exists()


def test_lost_layers_are_told(store: Store, layout: Layout) -> None:
    blob(store, "layer").unlink()
    assert found(store) == {}  # the uncompressed one is there

    blob(store, "copy").unlink()

    assert "its layer sha256:" in found(store)["refs/app"]


@pytest.mark.parametrize("content", [b"", b"{}", b'{"digest": "sha256:1"}', b"\xff\xff"])
def test_damaged_name_is_never_used(store: Store, layout: Layout, content: bytes) -> None:
    store.refs.set("other", store.refs.get("app") or "")
    (store.root / "refs" / "app").write_bytes(content)

    with pytest.raises(LayerCorrupt, match="the name 'app' of an image is damaged"):
        store.refs.get("app")

    assert list(store.refs.list()) == ["other"]
    assert found(store)["refs/app"].startswith("leads to no image: ")
    assert repaired(store)


def test_flipped_bits_of_a_name_are_noticed(store: Store, layout: Layout) -> None:
    path = store.root / "refs" / "app"
    content = path.read_bytes()
    digest = store.refs.get("app")
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])

        try:
            leads_to = store.refs.get("app")
        except LayerCorrupt:
            continue
        # A flip in the media type, the size or the digest's digits: the blob is what counts.
        assert leads_to == digest or not store.blobs.path(str(leads_to)).exists()


@pytest.mark.parametrize("content", [b"", b"[]", b'{"diff_id": "sha256:1"}', b"\xff"])
def test_damaged_meta_is_found(store: Store, layout: Layout, content: bytes) -> None:
    folder = store.root / "layers" / "u" / DIFF_ID.partition(":")[2]
    (folder / "meta.json").write_bytes(content)

    assert list(found(store)) == [f"layers/u/{folder.name}"]
    assert repaired(store)
    with Store.open(store.root) as other:
        assert not other.has_layer("u", DIFF_ID)


@pytest.mark.parametrize(
    ("damage", "path", "what"),
    [
        (lambda root: (root / "index.json").write_text("{"), "index.json", "does not list"),
        (lambda root: (root / "index.json").unlink(), "index.json", "does not list"),
        (lambda root: (root / "oci-layout").write_text("{}"), "oci-layout", "is damaged"),
        (lambda root: (root / "blobs/sha256/x").touch(), "blobs/sha256/x", "is no blob"),
        (
            lambda root: (root / "blobs/sha256" / ("1" * 64)).mkdir(),
            f"blobs/sha256/{'1' * 64}",
            "is no blob",
        ),
        (
            lambda root: (root / "cache/11" / f"{'1' * 64}.json").write_text("x"),
            f"cache/11/{'1' * 64}.json",
            "is a damaged result",
        ),
        (
            lambda root: (root / "layers/u" / ("7" * 64) / "meta.json").unlink(),
            f"layers/u/{'7' * 64}",
            "has no meta.json",
        ),
        (
            lambda root: (root / "layers/u" / ("7" * 64) / "fs").rename(root / "tmp" / "x"),
            f"layers/u/{'7' * 64}",
            "has no files",
        ),
    ],
)
def test_damage_is_told_and_repaired(
    store: Store, layout: Layout, damage: Callable[[Path], object], path: str, what: str
) -> None:
    damage(store.root)

    problems = found(store)

    assert list(problems) == [path] and what in problems[path]
    assert repaired(store)
    assert found(store) == {}


def test_damaged_failure_is_told(store: Store, layout: Layout) -> None:
    for name, content in {
        "aaaaaa": "{",
        "bbbbbb": f'{{"manifest": "sha256:{"1" * 64}", "containers": []}}',
    }.items():
        (store.failures_dir / name).mkdir()
        (store.failures_dir / name / "failure.json").write_text(content)

    problems = found(store)

    assert problems["failures/aaaaaa/failure.json"] == "is damaged"
    assert "failure bbbbbb cannot be used: blob" in problems["failures/bbbbbb/failure.json"]
    assert not repaired(store)


def test_rw_layers_are_left_alone(store: Store, layout: Layout) -> None:
    (store.root / "layers/u/.rw-1-2-3").mkdir()

    assert found(store) == {}


def test_damaged_layer_is_never_decompressed(store: Store, layout: Layout) -> None:
    image = oci.read_image(store, store.refs.get("app") or "")
    blob(store, "copy").unlink()
    flip(blob(store, "layer"))

    with pytest.raises(LayerCorrupt) as refused:
        inflate(store, image.layers[0], image.diff_ids[0])

    assert refused.value.what == f"blob {image.layers[0].digest} is damaged"
    assert "fsck --repair" in refused.value.hint
    assert not store.blobs.has(image.diff_ids[0])
