"""Remove from a store what nothing refers to any more.

What is wanted is found by `marking`, what can be done without by `shrinking`. Marking and taking
away happen under the lock that every new reference shares, so nothing can become wanted in between;
the slow part, deleting, happens afterwards in `trash/`.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pytest_rootfs.kernel.trees import remove_tree_at
from pytest_rootfs.store import marking
from pytest_rootfs.store.digests import ALGORITHM, is_digest
from pytest_rootfs.store.locks import fresh_name, locked, take_if_dead
from pytest_rootfs.store.marking import wanted_digests
from pytest_rootfs.store.shrinking import shrink
from pytest_rootfs.store.store import Store

RETENTION_S = 14 * 24 * 3600.0

Remove = Callable[[int, bytes], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What a collection removed. `left` are trees in the trash that could not be deleted."""

    blobs: int
    layers: int
    results: int
    freed_bytes: int
    size_bytes: int | None
    """What the store has now, about, when it was to become smaller."""
    left: tuple[str, ...]


def gc(
    store: Store,
    *,
    retention_s: float = RETENTION_S,
    size_bytes: int | None = None,
    remove: Remove = remove_tree_at,
) -> Collected:
    """Collect what is unreferenced; safe while others use the store.

    Results of build steps that were not used for `retention_s` seconds go, and with them layers
    that only they name. With `size_bytes` so does what can be made again, the least recently used
    first, until the store is no larger. `remove(folder_fd, name)` deletes a tree and returns its
    bytes; give one that runs in the containers' user namespace where layers hold files of
    subordinate ids.
    """
    with locked(store.root / "locks" / "gc.lock", label="collects what nothing refers to"):
        results = _drop_results(store, retention_s)
        wanted = wanted_digests(store)
        blobs = _take_blobs(store, wanted)
        layers = _take_layers(store, wanted)
        shrunk = None
        if size_bytes is not None:
            shrunk = shrink(store, size_bytes, functools.partial(_take, store))
            blobs, layers = blobs + shrunk.blobs, layers + shrunk.layers
            results += shrunk.results
        _take_abandoned(store)
        _drop_locks(store)
    freed, left = _empty_trash(store, remove)
    return Collected(
        blobs=blobs,
        layers=layers,
        results=results,
        freed_bytes=freed,
        size_bytes=shrunk.size_bytes if shrunk else None,
        left=left,
    )


def free_blobs(store: Store) -> int:
    """Delete the blobs that nothing refers to, and nothing else; return how many.

    Safe while others use the store, as `gc` is; takes as long as reading what names digests.
    """
    with locked(store.root / "locks" / "gc.lock", label="collects what nothing refers to"):
        blobs = _take_blobs(store, wanted_digests(store))
    _empty_trash(store, remove_tree_at)
    return blobs


def _drop_results(store: Store, retention_s: float) -> int:
    """Remove old results of build steps; return how many."""
    oldest = time.time() - retention_s
    count = 0
    for path in marking.results(store):
        if path.stat().st_mtime < oldest:
            path.unlink(missing_ok=True)
            count += 1
    return count


def _take_blobs(store: Store, wanted: set[str]) -> int:
    """Move unwanted blobs to the trash; return how many."""
    count = 0
    for path in (store.root / "blobs" / ALGORITHM).iterdir():
        if f"{ALGORITHM}:{path.name}" not in wanted:
            _take(store, path)
            count += 1
    return count


def _take_layers(store: Store, wanted: set[str]) -> int:
    """Move unwanted unpacked layers to the trash; return how many."""
    count = 0
    for path in (store.root / "layers").glob("*/*"):
        # the runtime keeps the rw layers of living containers here, too, under other names
        digest = f"{ALGORITHM}:{path.name}"
        if is_digest(digest) and digest not in wanted:
            _take(store, path)
            count += 1
    return count


def _take(store: Store, path: Path) -> None:
    path.rename(store.root / "trash" / fresh_name())


def _take_abandoned(store: Store) -> None:
    """Move to the trash what dead processes left in `tmp/`."""
    for path in (store.root / "tmp").iterdir():
        take_if_dead(path, store.root / "trash" / fresh_name())


def _drop_locks(store: Store) -> None:
    """Remove lock files that nobody holds; who waits for one notices and makes a new one."""
    for path in (store.root / "locks").iterdir():
        take_if_dead(path, path)


def _empty_trash(store: Store, remove: Remove = remove_tree_at) -> tuple[int, tuple[str, ...]]:
    """Delete the trash; return the bytes freed and what could not be deleted.

    Safe at any time. What is in the trash is wanted by nobody, however it came there.
    """
    left: list[str] = []
    freed = 0
    trash_fd = os.open(store.root / "trash", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in os.listdir(trash_fd):
            try:
                freed += remove(trash_fd, os.fsencode(name))
            except OSError as error:
                left.append(f"{name}: {error.strerror}")
    finally:
        os.close(trash_fd)
    return freed, tuple(left)
