"""H37 to H49: hostile manifests, configs and digests; damaged and mislabelled blobs."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from typing import Any

import pytest
from archives import archive, file, folder

from pytest_rootfs.errors import ArchiveRejected, LayerCorrupt
from pytest_rootfs.image.config import config_from_oci
from pytest_rootfs.store import oci
from pytest_rootfs.store.digests import hex_of
from pytest_rootfs.store.store import Store

LAYER = archive(folder("."), file("f", b"x" * 5000))
ONES = "sha256:" + "1" * 64
FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar"


def descriptor(content: bytes, media_type: str) -> dict[str, object]:
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    return {"digest": digest, "size": len(content), "mediaType": media_type}


def image(
    store: Store, manifest: dict[str, Any] | None = None, config: dict[str, Any] | None = None
) -> str:
    """Store an image of one layer, with these members changed; return its digest."""
    layer = descriptor(LAYER, oci.LAYER_TYPE)
    store.blobs.put(LAYER, oci.LAYER_TYPE)
    document = {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
        **(config or {}),
    }
    blob = store.blobs.put(json.dumps(document).encode(), oci.CONFIG_TYPE)
    whole = {
        "schemaVersion": 2,
        "mediaType": oci.MANIFEST_TYPE,
        "config": blob.as_json(),
        "layers": [layer],
        **(manifest or {}),
    }
    return store.blobs.put(json.dumps(whole).encode(), oci.MANIFEST_TYPE).digest


def damage(store: Store, digest: str, content: bytes) -> None:
    path = store.blobs.path(digest)
    os.chmod(path, 0o644)
    path.write_bytes(content)


def test_image_of_these_tests_is_sound(store: Store) -> None:
    found = oci.read_image(store, image(store))

    assert [layer.size for layer in found.layers] == [len(LAYER)]


def test_H37_damaged_document_is_refused(store: Store) -> None:
    digest = image(store)
    damage(store, digest, store.blobs.path(digest).read_bytes().replace(b"2", b"3"))

    with pytest.raises(LayerCorrupt, match=f"{digest} is damaged"):
        oci.read_image(store, digest)


def test_H37_missing_document_is_refused(store: Store) -> None:
    with pytest.raises(LayerCorrupt, match=f"{ONES} is missing"):
        oci.read_image(store, ONES)


@pytest.mark.parametrize("size", [0, 4, 6, 2**40])
def test_H38_wrong_size_is_refused(store: Store, size: int) -> None:
    digest = "sha256:" + hashlib.sha256(b"12345").hexdigest()

    with store.blobs.new() as writer:
        writer.write(b"12345")
        with pytest.raises(LayerCorrupt, match=f"has 5 bytes where {size} were announced"):
            writer.adopt(digest=digest, size=size, media_type="x")

    assert not store.blobs.has(digest)
    assert os.listdir(store.root / "tmp") == []


def test_H39_layer_of_another_diff_id_is_not_published(store: Store) -> None:
    with (
        pytest.raises(LayerCorrupt, match=f"layer {ONES} is damaged"),
        store.stage_layer("test", None) as staged,
    ):
        staged.publish(ONES, {"diff_id": "sha256:" + "2" * 64})

    assert os.listdir(store.root / "layers" / "test") == []
    assert os.listdir(store.root / "tmp") == []


@pytest.mark.parametrize("size", [-1, 1.0, "1", True, None, 2**70])
def test_H40_odd_size_is_refused(store: Store, size: object) -> None:
    odd = {"digest": ONES, "size": size, "mediaType": "x"}
    digest = image(store, {"config": odd})

    with pytest.raises(ArchiveRejected, match="descriptor with the size"):
        oci.read_image(store, digest)


DIGESTS = [
    "SHA256:" + "1" * 64,
    "sha256:" + "A" * 64,
    "sha256:" + "1" * 63,
    "sha256:" + "1" * 65,
    "sha256:" + "1" * 64 + "\n",
    "sha256:../../x",
    "sha256:" + "../" * 21 + "x",
    "sha512:" + "1" * 128,
    "md5:" + "1" * 32,
    "1" * 64,
    "",
]


@pytest.mark.parametrize("digest", DIGESTS)
def test_H41_odd_digest_is_refused(store: Store, digest: str) -> None:
    odd = {"digest": digest, "size": 1, "mediaType": "x"}

    with pytest.raises(ArchiveRejected, match="descriptor with the digest"):
        oci.read_image(store, image(store, {"config": odd}))
    with pytest.raises(ArchiveRejected, match="is not a digest"):
        hex_of(digest)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"manifests": []}, "two kinds of document"),
        ({"Layers": []}, "two kinds of document"),
        ({"MEDIATYPE": "x"}, "two kinds of document"),
        ({"mediaType": "text/plain"}, "not an image manifest"),
        ({"mediaType": "application/vnd.oci.image.index.v1+json"}, "not an image manifest"),
        ({"layers": {}}, "no layers or no config"),
        ({"layers": [{}] * 1001}, "1001 layers, the limit is 1000"),
        ({"config": []}, "no object"),
        ({"config": {"digest": ONES, "size": 1}}, "without a media type"),
        ({"annotations": []}, "no object of strings"),
        ({"annotations": {"a": 1}}, "no object of strings"),
    ],
)
def test_H42_document_of_two_readings_is_refused(
    store: Store, change: dict[str, Any], rule: str
) -> None:
    digest = image(store, change)

    with pytest.raises(ArchiveRejected) as refused:
        oci.read_image(store, digest)

    assert rule in refused.value.what
    assert digest in refused.value.what


@pytest.mark.parametrize(
    "content",
    [
        b'{"a":1,"a":2}',
        b'{"a":{"b":1,"b":1}}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"\xff",
        b"\xef\xbb\xbf{}",
        b"[]",
        b"",
        b"{} {}",
        b"{" * 5_000_000,
        b'{"a":' + b"9" * 5000 + b"}",
    ],
    ids=range(13),
)
def test_H43_odd_json_is_refused(store: Store, content: bytes) -> None:
    digest = store.blobs.put(content, oci.MANIFEST_TYPE).digest

    with pytest.raises(ArchiveRejected, match=digest):
        oci.read_image(store, digest)


@pytest.mark.parametrize("version", [1, "2", None, 3])
def test_H44_other_schema_is_refused(store: Store, version: object) -> None:
    digest = image(store, {"schemaVersion": version})

    with pytest.raises(ArchiveRejected, match=f"has the schema version {version!r}, not 2"):
        oci.read_image(store, digest)


@pytest.mark.parametrize("diff_ids", [[], [ONES, ONES], None, "x", [1], ["sha256:x"]])
def test_H45_other_number_of_layers_is_refused(store: Store, diff_ids: object) -> None:
    digest = image(store, config={"rootfs": {"type": "layers", "diff_ids": diff_ids}})

    with pytest.raises(ArchiveRejected, match=r"no proper rootfs\.diff_ids|1 layers, its config"):
        oci.read_image(store, digest)


@pytest.mark.parametrize("history", ["x", {}, [1]])
def test_H45_odd_history_is_refused(store: Store, history: object) -> None:
    digest = image(store, config={"history": history})

    with pytest.raises(ArchiveRejected, match="history that is no list"):
        oci.read_image(store, digest)


def test_H45_history_of_another_length_is_ignored(store: Store) -> None:
    digest = image(store, config={"history": [{}] * 7})

    assert len(oci.read_image(store, digest).layers) == 1


def test_H46_foreign_layer_is_only_looked_for_here(store: Store) -> None:
    layer = {**descriptor(b"elsewhere", FOREIGN), "urls": ["http://169.254.169.254/"]}
    digest = image(
        store,
        {"layers": [layer]},
        {"rootfs": {"type": "layers", "diff_ids": [layer["digest"]]}},
    )

    (found,) = oci.read_image(store, digest).layers

    assert not hasattr(found, "urls")
    with pytest.raises(LayerCorrupt, match="is missing from the store"):
        store.blobs.open(found.digest)


@pytest.mark.parametrize(
    "data",
    [base64.b64encode(b"other").decode(), "?", 1, None, base64.b64encode(LAYER[:9]).decode()],
)
def test_H47_wrong_embedded_data_is_refused(store: Store, data: object) -> None:
    layer = {**descriptor(LAYER, oci.LAYER_TYPE), "data": data}
    digest = image(store, {"layers": [layer]})

    with pytest.raises(ArchiveRejected, match="whose data is not sha256:"):
        oci.read_image(store, digest)


def test_H47_right_embedded_data_is_accepted(store: Store) -> None:
    layer = {**descriptor(LAYER, oci.LAYER_TYPE), "data": base64.b64encode(LAYER).decode()}

    assert oci.read_image(store, image(store, {"layers": [layer]})).layers[0].size == len(LAYER)


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"Env": ["x"]}, "Env has 'x', which is not NAME=VALUE"),
        ({"Env": "A=1"}, "Env='A=1' is not a list"),
        ({"Entrypoint": "/bin/sh"}, "Entrypoint='/bin/sh' is not a list"),
        ({"Cmd": [1]}, "Cmd="),
        ({"WorkingDir": ["/"]}, "WorkingDir="),
        ({"User": 0.5}, "User=0.5 is not a string"),
        ({"Labels": {"a": 1}}, "Labels="),
        ([], "config is list"),
    ],
)
def test_H49_odd_config_is_refused_by_field(fields: object, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        config_from_oci(fields)
