"""Find what the steps of an image stand on: an image of the store, brought there if need be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any  # decoded JSON only

from pytest_rootfs.errors import ArchiveRejected, ImageNotFound
from pytest_rootfs.image.config import ImageConfig, config_from_oci
from pytest_rootfs.image.references import is_foreign
from pytest_rootfs.store import imports
from pytest_rootfs.store.blobs import Descriptor
from pytest_rootfs.store.locks import Tell
from pytest_rootfs.store.manifests import StoredImage, read_image
from pytest_rootfs.store.media_types import LAYER_TYPE
from pytest_rootfs.store.sources import parse_source
from pytest_rootfs.store.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """An image of the store: its manifest, and its layers in uncompressed form, bottom first."""

    manifest: str = ""
    layers: tuple[Descriptor, ...] = ()
    config: ImageConfig = field(default_factory=ImageConfig)
    history: tuple[Mapping[str, Any], ...] = ()


def find_base(store: Store, reference: str, *, may_import: bool, tell: Tell) -> Base | None:
    """Return the image that a digest or a path means; `None` if it had to be imported first.

    Layers that travel compressed are decompressed unless they are. `tell` hears of whom this
    waits for. Raises ImageNotFound, LayerCorrupt, ArchiveRejected.
    """
    digest: str | None = reference
    if is_foreign(reference):
        digest = _imported(store, reference, may_import=may_import, tell=tell)
    elif not store.blobs.has(reference):
        raise ImageNotFound(
            f"no image has the digest {reference}",
            detail=f"looked in the store {store.root}",
            hint="see what is there: pytest-rootfs images",
        )
    if digest is None:
        return None
    image = read_image(store, digest)
    if not (may_import or all(map(store.blobs.has, image.diff_ids))):
        return None
    return Base(
        manifest=digest,
        layers=_uncompressed(store, image, tell),
        config=_config(image),
        history=image.history,
    )


def _imported(store: Store, reference: str, *, may_import: bool, tell: Tell) -> str | None:
    source = parse_source(reference)
    if not may_import:
        return imports.find_imported(store, source)
    return imports.import_image(store, source, tell=tell).digest


def _uncompressed(store: Store, image: StoredImage, tell: Tell) -> tuple[Descriptor, ...]:
    pairs = zip(image.layers, image.diff_ids, strict=True)
    return tuple(
        layer
        if layer.digest == diff_id and layer.media_type == LAYER_TYPE
        else imports.inflate(store, layer, diff_id, tell=tell)
        for layer, diff_id in pairs
    )


def _config(image: StoredImage) -> ImageConfig:
    try:
        return config_from_oci(image.config.get("config"))
    except ValueError as error:
        raise ArchiveRejected(f"config of image {image.digest}: {error}") from error
