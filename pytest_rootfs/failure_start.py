"""Start containers where a kept failure ended: its image with the kept rw layer on top."""

from __future__ import annotations

from dataclasses import replace

from pytest_rootfs.errors import ImageError, RootfsError
from pytest_rootfs.failure_record import Failure, JsonObject, KeptContainer, KeptImage
from pytest_rootfs.image.built import BuiltImage, chain_id
from pytest_rootfs.image.config import config_from_oci
from pytest_rootfs.secret_values import MASK
from pytest_rootfs.store import oci
from pytest_rootfs.store.store import Store

AUTOMATIC = "rootfs-"
"""How the names of containers begin that nobody has named."""


def built_image(image: KeptImage, store: Store) -> BuiltImage:
    """Return the image of a kept container as the builder's own."""
    return BuiltImage(
        name=image.name,
        digest=image.digest,
        chain_id=image.chain_id,
        layers=image.layers,
        config=config_from_oci(_config(image, store)),
        size=image.size,
        is_host=image.is_host,
    )


def _config(image: KeptImage, store: Store) -> JsonObject:
    """Return an image's config with the secrets that the record hides: the image has them.

    Of an image that this store does not have, such variables are left out.
    """
    pairs = image.config.get("Env", [])
    if not any(MASK in pair for pair in pairs):
        return image.config
    try:
        own: JsonObject = oci.read_image(store, image.digest).config["config"]
    except (ImageError, KeyError):
        return {**image.config, "Env": [pair for pair in pairs if MASK not in pair]}
    return own


def lost_env(kept: KeptContainer) -> list[str]:
    """Return the variables of the test whose values were not kept, as they are secret."""
    return [name for name in kept.masked_env if name in (kept.options.get("env") or ())]


def _final_state(kept: KeptContainer, store: Store) -> BuiltImage:
    """Return a kept container as an image of its own, against which changes are counted anew."""
    before = built_image(kept.image, store)
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
    failure: Failure, nodeid: str, *, name: str | None, position: int, store: Store
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
    return _final_state(kept, store)


class FilesNotKept(RootfsError):
    """A failure has no files; the detail says why."""
