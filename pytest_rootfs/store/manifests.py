"""Write and read the documents of an OCI image: manifest, config and history.

What we write is canonical: its digest depends on the layers and the config only. What we read is
checked against the image specification before any of it is used.
"""

from __future__ import annotations

import base64
import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any  # decoded JSON only

from pytest_rootfs.errors import ArchiveRejected
from pytest_rootfs.settings import SOURCE_DATE_EPOCH
from pytest_rootfs.store.blobs import Descriptor
from pytest_rootfs.store.digests import is_digest
from pytest_rootfs.store.documents import canonical_json, parse_json
from pytest_rootfs.store.media_types import CONFIG_TYPE, MANIFEST_TYPE
from pytest_rootfs.store.store import Store

CREATED = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(SOURCE_DATE_EPOCH))

_LAYERS_MAX = 1000
_SIZE_MAX = 2**63 - 1
_PLATFORMS: dict[str, tuple[str, str]] = {
    "x86_64": ("amd64", ""),
    "i686": ("386", ""),
    "i586": ("386", ""),
    "aarch64": ("arm64", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "loongarch64": ("loong64", ""),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """An image of the store. `config` is the whole config blob: `config`, `history`, `rootfs` …."""

    digest: str
    config_blob: Descriptor
    config: Mapping[str, Any]
    layers: tuple[Descriptor, ...]
    diff_ids: tuple[str, ...]
    annotations: Mapping[str, str]


def history_entry(created_by: str, *, empty_layer: bool = False) -> dict[str, object]:
    """Return the history of one build step, without a trace of when and where it ran."""
    entry: dict[str, object] = {"created": CREATED, "created_by": created_by}
    if empty_layer:
        entry["empty_layer"] = True
    return entry


def platform() -> dict[str, str]:
    """Return this machine as Go names it: `architecture`, `os` and, of ARM, `variant`."""
    machine = os.uname().machine
    architecture, variant = _PLATFORMS.get(machine, (machine, ""))
    found = {"architecture": architecture, "os": "linux"}
    return {**found, "variant": variant} if variant else found


def write_image(
    store: Store,
    *,
    layers: Sequence[Descriptor],
    config: Mapping[str, object],
    history: Sequence[Mapping[str, object]] = (),
    annotations: Mapping[str, str] | None = None,
) -> Descriptor:
    """Store an image of uncompressed layers (bottom first) and return its manifest.

    `config` has the members of the specification's `config` object (`Env`, `User` …). Idempotent:
    the same layers, config, history and annotations give the same manifest.
    """
    document = {
        **platform(),
        "config": config,
        "created": CREATED,
        "history": list(history),
        "rootfs": {"diff_ids": [layer.digest for layer in layers], "type": "layers"},
    }
    config_blob = store.blobs.put(canonical_json(document), CONFIG_TYPE)
    manifest: dict[str, object] = {
        "config": config_blob.as_json(),
        "layers": [layer.as_json() for layer in layers],
        "mediaType": MANIFEST_TYPE,
        "schemaVersion": 2,
    }
    if annotations:
        manifest["annotations"] = dict(annotations)
    return store.blobs.put(canonical_json(manifest), MANIFEST_TYPE)


def read_image(store: Store, digest: str) -> StoredImage:
    """Return the image whose manifest is `digest`.

    Raises LayerCorrupt for a missing or damaged blob, ArchiveRejected for a document that is not
    what the image specification asks for.
    """
    what = f"manifest {digest}"
    manifest = parse_json(store.blobs.read_bytes(digest), what=what)
    _check_manifest(manifest, what)
    config_blob = _descriptor(manifest["config"], what)
    layers = tuple(_descriptor(layer, what) for layer in manifest["layers"])
    config = parse_json(
        store.blobs.read_bytes(config_blob.digest), what=f"config {config_blob.digest}"
    )
    history = config.get("history", [])
    if not isinstance(history, list) or not all(isinstance(each, dict) for each in history):
        raise ArchiveRejected(f"config {config_blob.digest} has a history that is no list")
    rootfs = config.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(diff_ids, list) or not all(is_digest(each) for each in diff_ids):
        raise ArchiveRejected(f"config {config_blob.digest} has no proper rootfs.diff_ids")
    if len(diff_ids) != len(layers):
        raise ArchiveRejected(f"{what} has {len(layers)} layers, its config {len(diff_ids)}")
    return StoredImage(
        digest=digest,
        config_blob=config_blob,
        config=config,
        layers=layers,
        diff_ids=tuple(diff_ids),
        annotations=_annotations(manifest, what),
    )


def _check_manifest(manifest: Mapping[str, Any], what: str) -> None:
    folded = [member.lower() for member in manifest]
    problem = ""
    if len(set(folded)) != len(folded) or ("manifests" in folded and "layers" in folded):
        problem = "can be read as two kinds of document"
    elif manifest.get("schemaVersion") != 2:
        problem = f"has the schema version {manifest.get('schemaVersion')!r}, not 2"
    elif manifest.get("mediaType", MANIFEST_TYPE) != MANIFEST_TYPE:
        problem = f"is a {manifest['mediaType']!r}, not an image manifest"
    elif not isinstance(manifest.get("layers"), list) or "config" not in manifest:
        problem = "has no layers or no config"
    elif len(manifest["layers"]) > _LAYERS_MAX:
        problem = f"has {len(manifest['layers'])} layers, the limit is {_LAYERS_MAX}"
    if problem:
        raise ArchiveRejected(f"{what} {problem}")


def _check_embedded(data: object, digest: str, size: int, what: str) -> None:
    """Refuse a copy of the content that is not the content; it is not used in any case."""
    try:
        content = base64.b64decode(data if isinstance(data, str) else b"", validate=True)
    except ValueError:
        content = b""
    if len(content) != size or "sha256:" + hashlib.sha256(content).hexdigest() != digest:
        raise ArchiveRejected(f"{what} has a descriptor whose data is not {digest}")


def _annotations(manifest: Mapping[str, Any], what: str) -> dict[str, str]:
    found = manifest.get("annotations")
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(each, str) for each in found.values()):
        raise ArchiveRejected(f"{what} has annotations that are no object of strings")
    return found


def _descriptor(value: object, what: str) -> Descriptor:
    """Return a descriptor of a manifest, or refuse it."""
    if not isinstance(value, dict):
        raise ArchiveRejected(f"{what} has a descriptor that is no object")
    digest, size, media_type = (value.get(name) for name in ("digest", "size", "mediaType"))
    if not isinstance(digest, str) or not is_digest(digest):
        raise ArchiveRejected(f"{what} has a descriptor with the digest {digest!r}")
    if type(size) is not int or not 0 <= size <= _SIZE_MAX:
        raise ArchiveRejected(f"{what} has a descriptor with the size {size!r}")
    if not isinstance(media_type, str):
        raise ArchiveRejected(f"{what} has a descriptor without a media type")
    if "data" in value:
        _check_embedded(value["data"], digest, size, what)
    return Descriptor(digest=digest, size=size, media_type=media_type)
