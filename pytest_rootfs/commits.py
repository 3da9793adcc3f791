"""Write an image made of another one and what a container has changed in it."""

from __future__ import annotations

from pytest_rootfs.errors import ImageError
from pytest_rootfs.image.built import BuiltImage
from pytest_rootfs.image.references import check_tag
from pytest_rootfs.store import oci
from pytest_rootfs.store.blobs import Descriptor
from pytest_rootfs.store.store import Store


def refuse(built: BuiltImage, tag: str | None, container: str) -> None:
    """Refuse a tag that is none, and an image that no other host could start."""
    if tag is not None:
        check_tag(tag)
    if built.is_host:
        raise ImageError(
            f"container {container} cannot be committed: its image {built.name} is a view of this "
            "host's files",
            hint='start from a portable image, such as Image("minimal"), or take a snapshot',
        )


def write(store: Store, built: BuiltImage, layer: Descriptor | None) -> str:
    """Store the image, with one more layer unless nothing has changed; return its digest.

    Its configuration is that of the image below, its history one entry longer.
    """
    layers = [
        Descriptor(digest=each, size=store.blobs.size(each), media_type=oci.LAYER_TYPE)
        for each in built.layers
    ]
    past = oci.read_image(store, built.digest).config.get("history", ())
    entry = oci.history_entry("commit of a container", empty_layer=layer is None)
    manifest = oci.write_image(
        store,
        layers=layers if layer is None else [*layers, layer],
        config=built.config.as_oci(),
        history=[*past, entry],
    )
    return manifest.digest
