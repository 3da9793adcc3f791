"""Read, write and export OCI images: the one import for all three."""

from __future__ import annotations

from pytest_rootfs.store.exports import Format, export
from pytest_rootfs.store.imports import Progress
from pytest_rootfs.store.manifests import (
    StoredImage,
    history_entry,
    read_image,
    write_image,
)
from pytest_rootfs.store.media_types import CONFIG_TYPE, LAYER_TYPE, MANIFEST_TYPE
from pytest_rootfs.store.platforms import platform

__all__ = [
    "CONFIG_TYPE",
    "LAYER_TYPE",
    "MANIFEST_TYPE",
    "Format",
    "Progress",
    "StoredImage",
    "export",
    "history_entry",
    "platform",
    "read_image",
    "write_image",
]
