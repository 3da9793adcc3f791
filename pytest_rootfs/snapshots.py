"""What a container's files were at one moment, as layers of the store."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_rootfs.image import Image


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Name the files that a container had. Two are equal when all their files are.

    `digest` is the diffID of the layer that was made for it, `size` the bytes of that layer's
    archive. `layers` are the diffIDs of all layers, bottom first: those of the image, then `added`,
    of which there are several when the container itself began from a snapshot. `base` is the
    chainID of the image's. `not_kept` says, a sentence each, what no layer can hold: sockets, files
    that were deleted but are still open. It can be used as long as the session that took it runs;
    an image that outlives it is what `container.commit("a-tag")` makes.
    """

    name: str = field(compare=False)
    digest: str
    layers: tuple[str, ...] = field(repr=False)
    added: tuple[str, ...] = field(repr=False)
    size: int
    image: Image = field(compare=False, repr=False)
    base: str = field(repr=False)
    not_kept: tuple[str, ...] = field(default=(), compare=False)
