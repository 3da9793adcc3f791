"""Read an image out of what `docker save` writes: `manifest.json`, configs, and layer archives.

There is no OCI manifest in it that names blobs, so only the uncompressed layers can be verified,
by the digests in the config; the image gets a manifest of ours.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any  # decoded JSON only

from pytest_rootfs.errors import ArchiveRejected, ImageError, ImageNotFound, LayerCorrupt
from pytest_rootfs.store.bundles import Bundle, File, read_document
from pytest_rootfs.store.documents import parse_json
from pytest_rootfs.store.foreign import ForeignImage, ForeignLayer
from pytest_rootfs.store.manifests import diff_ids_of
from pytest_rootfs.store.media_types import MANIFEST_TYPE

_MANIFEST_BYTES_MAX = 1 << 20


def read_docker_archive(bundle: Bundle, *, wanted: str, what: str) -> ForeignImage:
    """Return an image of the archive: the one with the tag `wanted`, or the only one."""
    row = _choose(_rows(bundle, what), wanted, what)
    name, layers = row.get("Config"), row.get("Layers")
    if not isinstance(name, str) or not isinstance(layers, list):
        raise ArchiveRejected(f"manifest.json of {what} has an image without Config or Layers")
    config = _document(bundle, name, what)
    diff_ids = diff_ids_of(parse_json(config, what=f"config of {what}"), f"config of {what}")
    if len(diff_ids) != len(layers) or not all(isinstance(layer, str) for layer in layers):
        raise ArchiveRejected(
            f"manifest.json of {what} lists {len(layers)} layers, the config {len(diff_ids)}"
        )
    return ForeignImage(
        manifest=None,
        media_type=MANIFEST_TYPE,
        config=config,
        layers=tuple(
            ForeignLayer(
                diff_id=diff_id, blob=None, open=functools.partial(_open, bundle, layer, what)
            )
            for diff_id, layer in zip(diff_ids, layers, strict=True)
        ),
    )


def _rows(bundle: Bundle, what: str) -> list[Mapping[str, Any]]:
    try:
        content = read_document(bundle, "manifest.json", limit=_MANIFEST_BYTES_MAX)
    except FileNotFoundError as error:
        raise ArchiveRejected(
            f"{what} is no archive of `docker save`: it has no manifest.json"
        ) from error
    # A list; our strict reader takes objects.
    document = parse_json(b'{"images":%b}' % content, what=f"manifest.json of {what}")
    rows = document["images"]
    if len(document) != 1 or not isinstance(rows, list):
        raise ArchiveRejected(f"manifest.json of {what} is not a list of images")
    if not all(isinstance(row, dict) for row in rows):
        raise ArchiveRejected(f"manifest.json of {what} lists something that is no image")
    return rows


def _choose(rows: list[Mapping[str, Any]], wanted: str, what: str) -> Mapping[str, Any]:
    found = [row for row in rows if not wanted or _full(wanted) in map(_full, _tags(row))]
    tags = ", ".join(tag for row in rows for tag in _tags(row)) or "no tags"
    if not found:
        raise ImageNotFound(f"{what} has no image {wanted or 'at all'}", detail=f"it has {tags}")
    if len(found) > 1:
        raise ImageError(
            f"{what} has {len(found)} images that could be meant",
            detail=f"it has {tags}",
            hint="name one of them: docker-archive:FILE:NAME:TAG",
        )
    return found[0]


def _tags(row: Mapping[str, Any]) -> list[str]:
    tags = row.get("RepoTags")
    return [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []


def _full(name: str) -> str:
    """Write a name as Docker completes it: `app` is `docker.io/library/app:latest`."""
    for prefix in ("docker.io/library/", "docker.io/"):
        name = name.removeprefix(prefix)
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _document(bundle: Bundle, name: str, what: str) -> bytes:
    file = _open(bundle, name, what)
    file.close()
    return read_document(bundle, name)


def _open(bundle: Bundle, name: str, what: str) -> File:
    try:
        return bundle.open(name)
    except FileNotFoundError as error:
        raise LayerCorrupt(
            f"{what} is incomplete: it has no {json.dumps(name)}", hint="save the image again"
        ) from error
