"""Unpack the layers of images for one session's ids, each over those below it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from pytest_rootfs.errors import ArchiveRejected, ImageError
from pytest_rootfs.image.built import chain_id
from pytest_rootfs.runtime.ids import Ids
from pytest_rootfs.runtime.session import Session
from pytest_rootfs.store.staged import Owner
from pytest_rootfs.store.store import Store

KEPT_STACKS = 1024
LOWER_DIRS_MAX = 500
"""OVL_MAX_STACK of fs/overlayfs/super.c."""


class Home(Protocol):
    """What unpacking needs of the engine."""

    @property
    def store(self) -> Store:
        """The store of layers and of their trees."""

    @property
    def ids(self) -> Ids:
        """The id maps."""

    @property
    def layer_owner(self) -> Owner:
        """Who owns the trees, on the host."""

    @property
    def session(self) -> Session:
        """The running session, whose jobs write files of any owner."""

    @property
    def tell(self) -> Callable[[str], None]:
        """Who hears of whom an unpacking waits for."""


class Unpacker:
    """Remembers which stacks of layers are unpacked; safe between threads and processes."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._unpacked: dict[tuple[bool, tuple[str, ...]], tuple[str, ...]] = {}

    def unpack(self, layers: Sequence[str], *, is_host: bool) -> tuple[str, ...]:
        """Unpack layers, bottom first, unless they are; return the names of their trees.

        A tree's name is the layer's diffID or, if it fits only what is below it, the chain's.
        Raises `ImageError` for more layers than an overlay takes, before any of them is unpacked.
        """
        ours = 2 if is_host else 1  # the init layer, and the host
        if len(layers) > LOWER_DIRS_MAX - ours:
            raise ImageError(
                f"cannot mount {len(layers)} layers of an image: the limit is "
                f"{LOWER_DIRS_MAX - ours}",
                detail=f"overlayfs takes {LOWER_DIRS_MAX}, and what every container needs is in "
                f"{ours} of them; a kept failure or a snapshot is a layer, too",
                hint="make its layers one: echo FROM IMAGE | podman build --squash-all -t NAME -",
            )
        stack = (is_host, tuple(layers))
        names = self._unpacked.get(stack)
        if names is None:
            if len(self._unpacked) >= KEPT_STACKS:
                self._unpacked.clear()
            names = self._unpacked[stack] = self._unpack_all(stack[1], is_host=is_host)
        return names

    def _unpack_all(self, layers: tuple[str, ...], *, is_host: bool) -> tuple[str, ...]:
        found: list[str] = []
        for count, diff_id in enumerate(layers, 1):
            chain = chain_id(layers[:count], is_host=is_host)
            # of the host below an image nothing is known that would hold tomorrow
            below = None if is_host else found[::-1]
            found.append(self._name_of(diff_id, chain) or self._unpack(diff_id, chain, below))
        return tuple(found)

    def _name_of(self, diff_id: str, chain: str) -> str | None:
        """Return the name under which a layer is unpacked, if it is."""
        store, key = self._home.store, self._home.ids.key
        return next((name for name in (diff_id, chain) if store.has_layer(key, name)), None)

    def _unpack(self, diff_id: str, chain: str, below: Sequence[str] | None) -> str:
        """Unpack a layer over others (topmost first); one process at a time does it."""
        home = self._home
        store, key = home.store, home.ids.key
        with store.lock(
            f"layer-{key}-{diff_id}",
            doing=f"unpacks layer {diff_id}",
            tell=home.tell,
        ):
            known = self._name_of(diff_id, chain)
            if known is not None:
                return known
            with (
                store.blobs.open(diff_id) as blob,
                store.stage_layer(key, home.layer_owner) as staged,
            ):
                args = {"squash_ids": home.ids.is_single, "knows_below": below is not None}
                fds = [blob.fileno(), staged.fd]
                try:
                    meta = home.session.job(
                        "unpack_layer", args, fds, layers=below or (), trees=[1]
                    )
                except ArchiveRejected as error:
                    what = f"layer {diff_id}: {error.what}"
                    raise ArchiveRejected(what, detail=error.detail, hint=error.hint) from error
                name = chain if meta["uses_below"] else diff_id
                staged.publish(diff_id, meta, name=name)
        return name
