"""Hold what an image is once it is built: names of content, and no way to change it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from pytest_rootfs.image.config import ImageConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltImage:
    """Name an image whose layers are all in the store.

    `digest` is that of its OCI manifest; `layers` are diffIDs, bottom first; `size` is in bytes of
    uncompressed layers. With `is_host` the host's `/` lies below the layers, and the digest says
    nothing about it.
    """

    name: str
    digest: str
    chain_id: str
    layers: tuple[str, ...]
    config: ImageConfig
    size: int
    is_host: bool = False


def chain_id(diff_ids: Iterable[str], *, is_host: bool = False) -> str:
    """Return the identity of a stack of layers (OCI image-spec, config.md, "Layer ChainID").

    The specification has none for an empty stack: it is the hash of nothing, or of "host".
    """
    chain = "sha256:" + hashlib.sha256(b"host" if is_host else b"").hexdigest()
    for number, diff_id in enumerate(diff_ids):
        if number == 0 and not is_host:
            chain = diff_id
        else:
            chain = "sha256:" + hashlib.sha256(f"{chain} {diff_id}".encode()).hexdigest()
    return chain
