"""Open a store: one folder that many pytest processes share, and its parts.

    oci-layout  index.json  blobs/sha256/…     a valid OCI image layout
    layers/<idmap>/<hex>/fs + meta.json        unpacked layers, immutable
    cache/  refs/  failures/  leases/  locks/  tmp/  trash/

A name under `blobs/` or `layers/` is complete. Everything is made in `tmp/` and renamed; the loser
of a race drops its copy and succeeds; readers take no lock. What an open store has asked for or
made is never collected until it is closed (a lease). Mode 0700, one owner.
"""

from __future__ import annotations

import errno
import os
import re
import threading
import time
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import final

from pytest_rootfs.store import opening, probes
from pytest_rootfs.store.blobs import Blobs
from pytest_rootfs.store.caches import StepCache
from pytest_rootfs.store.digests import hex_of
from pytest_rootfs.store.leases import Lease
from pytest_rootfs.store.locks import Tell, is_no_room, locked
from pytest_rootfs.store.refs import Refs
from pytest_rootfs.store.staged import (
    FOLDER_FLAGS,
    Owner,
    StagedLayer,
    give,
    is_whole,
    sync_settled,
)

_IDMAP = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)


@final
class Store:
    """An open store. Safe between threads and processes; close it to let its lease go."""

    def __init__(self, root: Path) -> None:
        """Use `Store.open`, which also creates and checks the folder."""
        self.root = root
        self._gc_lock = root / "locks" / "gc.lock"
        self._lease_lock = threading.Lock()
        self._own_lease: Lease | None = None
        self._trusted: set[tuple[str, str]] = set()
        self.blobs = Blobs(root / "blobs" / "sha256", root / "tmp", hold=self.hold)
        self.cache = StepCache(root / "cache", root / "tmp", hold=self.hold)
        self.refs = Refs(root, self.blobs, hold=self.hold)

    @classmethod
    def open(cls, root: Path) -> Store:
        """Open the store at `root`, creating it (0700) if missing.

        Raises StoreUnusable when the folder is somebody else's, holds something else, or is on
        a file system that cannot keep layers (tried once, then remembered).
        """
        root = root.absolute()
        try:
            opening.prepare(root)
            store = cls(root)
            store.refs.catch_up()
        except OSError as error:
            no_folder = isinstance(error, FileExistsError)  # mkdir(2) of a file's name
            reason = os.strerror(errno.ENOTDIR) if no_folder else error.strerror
            raise probes.StoreUnusable(
                f"the store cannot be in {root}: {reason}",
                hint=probes.repair_of(error),
            ) from error
        return store

    def require(self) -> None:
        """Raise StoreUnusable if the folder was removed since it was opened."""
        if not opening.is_store(self.root):
            raise probes.StoreUnusable(
                f"the store {self.root} was removed while this session used it",
                hint="start the session again, and it is made anew; `pytest-rootfs gc` makes room, "
                "and takes only what no session uses",
            )

    def __enter__(self) -> Store:
        """Close on exit."""
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up what this store held; idempotent. It may be used again, and holds anew.

        Unpacked layers that it has used are made to survive a crash of the machine first.
        """
        self._sync_layers()
        with self._lease_lock:
            lease, self._own_lease = self._own_lease, None
            self._trusted.clear()
            if lease is not None:
                lease.close()

    @property
    def failures_dir(self) -> Path:
        """The folder of kept failures; digests named in `*/failure.json` are never collected."""
        return self.root / "failures"

    def lock(
        self, name: str, *, doing: str = "", tell: Tell | None = None
    ) -> AbstractContextManager[None]:
        """Hold the lock `name` (`layer-<hex>`, `step-<key>`) for a `with` block.

        One holder at a time over all threads, processes and sessions. `tell` is called once, with
        `waiting for pid 123 (gw3), which unpacks layer …` (from the holder's `doing`), when this
        has waited for 2 s. Check again whether the work is still to be done after it is held. Not
        re-entrant.
        """
        file = re.sub(r"[^A-Za-z0-9._-]", "-", name)[:200]
        return locked(
            self.root / "locks" / f"{file}.lock", label=doing or f"holds {name}", tell=tell
        )

    def lease(self) -> Lease:
        """Return a new lease: what it holds is not collected until it is closed or we die."""
        return Lease(self.root / "leases", self._gc_lock)

    def hold(self, *digests: str) -> None:
        """Keep digests, and all that their manifests name, until this store is closed.

        On a full or read-only disk nothing can be kept, and what is there is used all the same.
        """
        with self._lease_lock:
            try:
                if self._own_lease is None:
                    self._own_lease = self.lease()
                self._own_lease.hold(*digests)
            except OSError as error:
                if not is_no_room(error):
                    raise

    def layers_fd(self, idmap: str, owner: Owner) -> int:
        """Return a descriptor of `layers/<idmap>/`, created and given to `owner` if needed.

        A layer's files are below it in `staged.layer_rel(diff_id)`. The caller closes.
        """
        folder = self._layers(idmap)
        folder.mkdir(mode=0o700, exist_ok=True)
        folder_fd = os.open(folder, FOLDER_FLAGS)
        give(folder_fd, owner)
        return folder_fd

    def has_layer(self, idmap: str, diff_id: str) -> bool:
        """Tell whether a layer is unpacked; from now on it stays as long as the store is open.

        One that was unpacked before the machine last started is not trusted until it was synced.
        """
        if (idmap, diff_id) in self._trusted:
            return True
        self.hold(diff_id)
        path = self._layers(idmap) / hex_of(diff_id)
        if not is_whole(path):
            return False
        self._trusted.add((idmap, diff_id))
        _note_use(path / "meta.json")
        return True

    def stage_layer(self, idmap: str, owner: Owner) -> StagedLayer:
        """Begin an unpacked layer: an empty folder that `owner` may fill through `.fd`."""
        os.close(self.layers_fd(idmap, owner))
        return StagedLayer(self.root, self._layers(idmap), owner, hold=self.hold)

    def _sync_layers(self) -> None:
        used = [self._layers(idmap) / hex_of(name) for idmap, name in self._trusted]
        try:
            sync_settled(used)
        except OSError as error:
            if not is_no_room(error):
                raise

    def _layers(self, idmap: str) -> Path:
        if _IDMAP.fullmatch(idmap) is None:
            raise ValueError(f"{idmap!r} cannot name an id map")
        return self.root / "layers" / idmap


def _note_use(path: Path) -> None:
    """Set a file's time of access, which collections that must choose go by."""
    with suppress(OSError):
        os.utime(path, ns=(time.time_ns(), os.stat(path).st_mtime_ns))
