"""Start containers where a kept failure ended: its image with the kept rw layer on top."""

from __future__ import annotations

from dataclasses import replace

from pytest_rootfs.errors import RootfsError
from pytest_rootfs.failure_record import Failure, KeptContainer, KeptImage
from pytest_rootfs.image.built import BuiltImage, chain_id
from pytest_rootfs.image.config import config_from_oci

AUTOMATIC = "rootfs-"
"""How the names of containers begin that nobody has named."""


def built_image(image: KeptImage) -> BuiltImage:
    """Return the image of a kept container as the builder's own."""
    return BuiltImage(
        name=image.name,
        digest=image.digest,
        chain_id=image.chain_id,
        layers=image.layers,
        config=config_from_oci(image.config),
        size=image.size,
        is_host=image.is_host,
    )


def final_state(kept: KeptContainer) -> BuiltImage:
    """Return a kept container as an image of its own, against which changes are counted anew."""
    before = built_image(kept.image)
    layers = (*before.layers, kept.layer)
    return replace(
        before,
        digest=kept.manifest,
        chain_id=chain_id(layers, is_host=before.is_host),
        layers=layers,
        size=before.size + kept.size,
    )


def require_files(failure: Failure, kept: KeptContainer) -> None:
    """Refuse a failure whose files could not be kept, with the reason."""
    if not kept.manifest:
        raise FilesNotKept(
            f"the files of failure {failure.id} were not kept",
            detail="\n".join(kept.gaps),
            hint=f"what is known without them: pytest-rootfs show {failure.id}",
        )


def state_for(
    failure: Failure, nodeid: str, *, name: str | None, position: int
) -> BuiltImage | None:
    """Return what a container of a test starts from, None if the failure knows nothing of it.

    A container with a name is known by that, the others by their position in the test.
    """
    if nodeid != failure.nodeid:
        return None
    if name is not None:
        kept = failure.container(name)
    else:
        kept = next(iter(failure.containers[position : position + 1]), None)
        if kept is not None and not kept.name.startswith(AUTOMATIC):
            kept = None
    if kept is None:
        return None
    require_files(failure, kept)
    return final_state(kept)


class FilesNotKept(RootfsError):
    """A failure has no files; the detail says why."""
