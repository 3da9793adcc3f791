"""Describe an image that lies outside of the store, whatever format it is in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pytest_rootfs.store.blobs import Descriptor
from pytest_rootfs.store.bundles import File


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignLayer:
    """One layer. Without a `blob` (of a manifest) only its uncompressed digest is known."""

    diff_id: str
    blob: Descriptor | None
    open: Callable[[], File]


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignImage:
    """An image's documents, verified, and how to read its layers, which are not yet.

    Without a `manifest` one is made, of the uncompressed layers.
    """

    manifest: bytes | None
    media_type: str
    config: bytes
    layers: tuple[ForeignLayer, ...]
