"""Write and read the documents of an OCI image: manifest, config and history.

What we write is canonical: its digest depends on the layers and the config only. What we read is
checked against the image specification before any of it is used.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any  # decoded JSON only

from pytest_rootfs.errors import ArchiveRejected
from pytest_rootfs.settings import SOURCE_DATE_EPOCH
from pytest_rootfs.store.blobs import Descriptor
from pytest_rootfs.store.digests import digest_of, is_digest
from pytest_rootfs.store.documents import canonical_json, parse_json
from pytest_rootfs.store.media_types import (
    CONFIG_TYPE,
    CONFIG_TYPES,
    LAYER_TYPES,
    MANIFEST_TYPE,
    MANIFEST_TYPES,
)
from pytest_rootfs.store.platforms import platform
from pytest_rootfs.store.store import Store

CREATED = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(SOURCE_DATE_EPOCH))

LAYERS_MAX = 1000
_SIZE_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A manifest, checked: what an image consists of. Layers are as they travel, bottom first."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """An image of the store; `digest`, `size` (in bytes) and `media_type` are its manifest's.

    `config` is the whole config blob: `config`, `history`, `rootfs` …. `layers` are the blobs that
    the manifest names, compressed or not; the uncompressed ones have the names `diff_ids`.
    """

    digest: str
    size: int
    media_type: str
    config_blob: Descriptor
    config: Mapping[str, Any]
    layers: tuple[Descriptor, ...]
    diff_ids: tuple[str, ...]
    annotations: Mapping[str, str]

    @property
    def history(self) -> tuple[Mapping[str, Any], ...]:
        """Return how the image was made; a nameless step a layer when its history misses some."""
        steps = self.config.get("history") or []
        if sum(not step.get("empty_layer") for step in steps) == len(self.layers):
            return tuple(steps)
        return tuple(history_entry(f"layer {diff_id}") for diff_id in self.diff_ids)


def history_entry(created_by: str, *, empty_layer: bool = False) -> dict[str, object]:
    """Return the history of one build step, without a trace of when and where it ran."""
    entry: dict[str, object] = {"created": CREATED, "created_by": created_by}
    if empty_layer:
        entry["empty_layer"] = True
    return entry


def write_image(
    store: Store,
    *,
    layers: Sequence[Descriptor],
    config: Mapping[str, object],
    history: Sequence[Mapping[str, object]] = (),
    annotations: Mapping[str, str] | None = None,
    durable: bool = True,
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
    config_blob = store.blobs.put(canonical_json(document), CONFIG_TYPE, durable=durable)
    manifest = manifest_of(config_blob, layers, annotations)
    return store.blobs.put(manifest, MANIFEST_TYPE, durable=durable)


def manifest_of(
    config: Descriptor, layers: Sequence[Descriptor], annotations: Mapping[str, str] | None = None
) -> bytes:
    """Return the manifest of an image, as we write one."""
    manifest: dict[str, object] = {
        "config": config.as_json(),
        "layers": [layer.as_json() for layer in layers],
        "mediaType": MANIFEST_TYPE,
        "schemaVersion": 2,
    }
    if annotations:
        manifest["annotations"] = dict(annotations)
    return canonical_json(manifest)


def read_image(store: Store, digest: str) -> StoredImage:
    """Return the image whose manifest is `digest`.

    Raises LayerCorrupt for a missing or damaged blob, ArchiveRejected for a document that is not
    what the image specification asks for.
    """
    content = store.blobs.read_bytes(digest)
    manifest = read_manifest(content, what=f"manifest {digest}")
    config = read_config(store.blobs.read_bytes(manifest.config.digest), manifest)
    return StoredImage(
        digest=digest,
        size=len(content),
        media_type=manifest.media_type,
        config_blob=manifest.config,
        config=config,
        layers=manifest.layers,
        diff_ids=tuple(config["rootfs"]["diff_ids"]),
        annotations=manifest.annotations,
    )


def read_manifest(content: bytes, *, what: str, media_type: str = "") -> Manifest:
    """Return the manifest in `content`, which a descriptor has called a `media_type`."""
    document = parse_json(content, what=what)
    _check_manifest(document, what, media_type)
    config = descriptor_of(document["config"], what)
    if config.media_type not in CONFIG_TYPES:
        raise ArchiveRejected(f"{what} is of no image: its config is a {config.media_type!r}")
    layers = tuple(descriptor_of(layer, what) for layer in document["layers"])
    for layer in layers:
        if layer.media_type not in LAYER_TYPES:
            raise ArchiveRejected(
                f"{what} has the layer {layer.digest} of an unknown kind: {layer.media_type!r}"
            )
    return Manifest(
        media_type=str(document.get("mediaType") or media_type or MANIFEST_TYPE),
        config=config,
        layers=layers,
        annotations=_annotations(document, what),
    )


def read_config(content: bytes, manifest: Manifest) -> dict[str, Any]:
    """Return the config in `content`, checked against its manifest."""
    what = f"config {manifest.config.digest}"
    config = parse_json(content, what=what)
    history = config.get("history")  # null is how Go writes none
    if history is not None and not _is_list_of_objects(history):
        raise ArchiveRejected(f"{what} has a history that is no list")
    diff_ids = diff_ids_of(config, what)
    if len(diff_ids) != len(manifest.layers):
        raise ArchiveRejected(
            f"the manifest of {what} has {len(manifest.layers)} layers, its config {len(diff_ids)}"
        )
    return config


def _is_list_of_objects(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, dict) for each in value)


def diff_ids_of(config: Mapping[str, Any], what: str) -> tuple[str, ...]:
    """Return the digests of an image's uncompressed layers, bottom first."""
    rootfs = config.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(diff_ids, list) or not all(is_digest(each) for each in diff_ids):
        raise ArchiveRejected(f"{what} has no proper rootfs.diff_ids")
    if len(diff_ids) > LAYERS_MAX:
        raise ArchiveRejected(f"{what} has {len(diff_ids)} layers, the limit is {LAYERS_MAX}")
    return tuple(diff_ids)


def descriptor_of(value: object, what: str) -> Descriptor:
    """Return a descriptor of a document, or refuse it; `what` names the document."""
    if not isinstance(value, dict):
        raise ArchiveRejected(f"{what} has a descriptor that is no object")
    digest, size, media_type = (value.get(name) for name in ("digest", "size", "mediaType"))
    if not isinstance(digest, str) or not is_digest(digest):
        raise ArchiveRejected(f"{what} has a descriptor with the digest {digest!r}")
    if type(size) is not int or not 0 <= size <= _SIZE_MAX:
        raise ArchiveRejected(f"{what} has a descriptor with the size {size!r}")
    if not isinstance(media_type, str):
        raise ArchiveRejected(f"{what} has a descriptor without a media type")
    if "data" in value and not _is_content(value["data"], digest, size):
        raise ArchiveRejected(f"{what} has a descriptor whose data is not {digest}")
    return Descriptor(digest=digest, size=size, media_type=media_type)


def _check_manifest(manifest: Mapping[str, Any], what: str, media_type: str) -> None:
    folded = [member.lower() for member in manifest]
    found = manifest.get("mediaType", media_type or MANIFEST_TYPE)
    problem = ""
    if len(set(folded)) != len(folded) or ("manifests" in folded and "layers" in folded):
        problem = "can be read as two kinds of document"
    elif manifest.get("schemaVersion") != 2:
        problem = f"has the schema version {manifest.get('schemaVersion')!r}, not 2"
    elif found not in MANIFEST_TYPES:
        problem = f"is a {found!r}, not an image manifest"
    elif media_type and found != media_type:
        problem = f"is a {found!r}, and was announced as a {media_type!r}"
    elif not isinstance(manifest.get("layers"), list) or "config" not in manifest:
        problem = "has no layers or no config"
    elif len(manifest["layers"]) > LAYERS_MAX:
        problem = f"has {len(manifest['layers'])} layers, the limit is {LAYERS_MAX}"
    if problem:
        raise ArchiveRejected(f"{what} {problem}")


def _annotations(manifest: Mapping[str, Any], what: str) -> dict[str, str]:
    found = manifest.get("annotations")
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(each, str) for each in found.values()):
        raise ArchiveRejected(f"{what} has annotations that are no object of strings")
    return found


def _is_content(data: object, digest: str, size: int) -> bool:
    """Tell whether a descriptor's `data`, in base64, is what the descriptor describes."""
    try:
        content = base64.b64decode(data, validate=True) if isinstance(data, str) else None
    except ValueError:
        return False
    if content is None or len(content) != size:
        return False
    return digest_of(content) == digest
