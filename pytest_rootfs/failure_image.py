"""Make a kept container an OCI image: the layers of its image, and its rw layer on top.

The config says what the container's commands were run with (user, folder, environment), so that
other tools start where the test was. An image on the `host` base has no base layers: it holds
what was put on top of the host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pytest_rootfs.errors import ImageError
from pytest_rootfs.store import oci
from pytest_rootfs.store.blobs import Descriptor

if TYPE_CHECKING:
    from pytest_rootfs.failure_record import JsonObject, KeptContainer
    from pytest_rootfs.secret_values import SecretValues
    from pytest_rootfs.store.store import Store

BASE_NAME = "org.opencontainers.image.base.name"
BASE_DIGEST = "org.opencontainers.image.base.digest"


def write_image(store: Store, kept: KeptContainer, layer: Descriptor, secrets: SecretValues) -> str:
    """Write manifest and config of a kept container; return the manifest's digest.

    Neither is synced, as the rw layer is not. `secrets` are hidden in the history.
    """
    base = [
        Descriptor(digest=digest, size=store.blobs.size(digest), media_type=oci.LAYER_TYPE)
        for digest in kept.image.layers
    ]
    manifest = oci.write_image(
        store,
        layers=[*base, layer],
        config=_config(kept),
        history=[
            *secrets.hidden_json(list(_history(store, kept))),
            oci.history_entry("pytest-rootfs: what the test left"),
        ],
        annotations={BASE_NAME: _text(kept.image.name), BASE_DIGEST: kept.image.digest},
        durable=False,
    )
    return manifest.digest


def _config(kept: KeptContainer) -> JsonObject:
    run_as = {
        "User": _text(kept.user),
        "WorkingDir": _text(kept.workdir),
        "Env": [_text(f"{name}={value}") for name, value in kept.env.items()],
    }
    return {**kept.image.config, **{key: value for key, value in run_as.items() if value}}


def _history(store: Store, kept: KeptContainer) -> Sequence[Mapping[str, object]]:
    """Return the steps that made the image; one a layer, nameless, if nobody knows them."""
    try:
        history: Sequence[Mapping[str, object]] = oci.read_image(store, kept.image.digest).config[
            "history"
        ]
    except (ImageError, KeyError):
        return [oci.history_entry(f"image {_text(kept.image.name)}") for _ in kept.image.layers]
    return history


def _text(value: str) -> str:
    """Return text without undecodable bytes, which JSON documents of an image cannot hold."""
    return value.encode(errors="surrogateescape").decode(errors="replace")
