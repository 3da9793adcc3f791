"""Remove from a store what nothing refers to any more.

Roots: tags, kept failures, the leases of living processes, and recent results of build steps. A
manifest that is reached brings its config and layers. Marking and taking away happen under the
lock that every new reference shares, so nothing can become wanted in between; the slow part,
deleting, happens afterwards in `trash/`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pytest_rootfs.kernel.trees import remove_tree_at
from pytest_rootfs.store.digests import ALGORITHM, is_digest, named_in
from pytest_rootfs.store.documents import JSON_BYTES_MAX
from pytest_rootfs.store.locks import fresh_name, leads_to, locked, try_exclusive
from pytest_rootfs.store.store import Store

RETENTION_S = 14 * 24 * 3600.0

Remove = Callable[[int, bytes], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What a collection removed. `left` are trees in the trash that could not be deleted."""

    blobs: int
    layers: int
    results: int
    freed_bytes: int
    left: tuple[str, ...]


def gc(
    store: Store, *, retention_s: float = RETENTION_S, remove: Remove = remove_tree_at
) -> Collected:
    """Collect what is unreferenced; safe while others use the store.

    Results of build steps that were not used for `retention_s` seconds go, and with them layers
    that only they name. `remove(folder_fd, name)` deletes a tree; give one that runs in the
    containers' user namespace where layers hold files of subordinate ids.
    """
    with locked(store.root / "locks" / "gc.lock", label="gc"):
        results = _drop_results(store, retention_s)
        wanted = _wanted(store)
        blobs = list(_take_blobs(store, wanted))
        layers = list(_take_layers(store, wanted))
        _take_abandoned(store)
        _drop_locks(store)
    freed, left = empty_trash(store, remove)
    return Collected(
        blobs=len(blobs), layers=len(layers), results=results, freed_bytes=freed, left=left
    )


def _drop_results(store: Store, retention_s: float) -> int:
    """Remove old results of build steps; return how many."""
    oldest = time.time() - retention_s
    count = 0
    for path in (store.root / "cache").glob("*/*.json"):
        if path.stat().st_mtime < oldest:
            path.unlink(missing_ok=True)
            count += 1
    return count


def _wanted(store: Store) -> set[str]:
    """Return every digest that a root names, and what manifests among them name."""
    pending: set[str] = set()
    for path in _roots(store):
        with suppress(FileNotFoundError):
            pending |= named_in(path.read_text(errors="replace"))
    wanted: set[str] = set()
    while pending:
        digest = pending.pop()
        wanted.add(digest)
        pending |= _children(store, digest) - wanted
    return wanted


def _roots(store: Store) -> Iterator[Path]:
    yield from (store.root / "refs").iterdir()
    yield from (store.root / "failures").glob("*/*.json")
    yield from (store.root / "cache").glob("*/*.json")
    for path in (store.root / "leases").iterdir():
        if not _take_if_dead(path, path):
            yield path


def _children(store: Store, digest: str) -> set[str]:
    """Return the digests in a manifest or config; of other blobs, none."""
    path = store.blobs.path(digest)
    try:
        if path.stat().st_size > JSON_BYTES_MAX:
            return set()
        with path.open("rb") as file:
            if file.read(1) != b"{":
                return set()
            content = b"{" + file.read()
        json.loads(content)
    except (FileNotFoundError, ValueError):
        return set()
    return named_in(content.decode())


def _take_blobs(store: Store, wanted: set[str]) -> Iterator[str]:
    for path in (store.root / "blobs" / ALGORITHM).iterdir():
        if f"{ALGORITHM}:{path.name}" not in wanted:
            path.rename(store.root / "trash" / fresh_name())
            yield path.name


def _take_layers(store: Store, wanted: set[str]) -> Iterator[str]:
    for path in (store.root / "layers").glob("*/*"):
        # the runtime keeps the rw layers of living containers here, too, under other names
        digest = f"{ALGORITHM}:{path.name}"
        if is_digest(digest) and digest not in wanted:
            path.rename(store.root / "trash" / fresh_name())
            yield path.name


def _take_abandoned(store: Store) -> None:
    """Move to the trash what dead processes left in `tmp/`."""
    for path in (store.root / "tmp").iterdir():
        _take_if_dead(path, store.root / "trash" / fresh_name())


def _drop_locks(store: Store) -> None:
    """Remove lock files that nobody holds; who waits for one notices and makes a new one."""
    for path in (store.root / "locks").iterdir():
        _take_if_dead(path, path)


def _take_if_dead(path: Path, target: Path) -> bool:
    """Move a file or folder away (remove it, if `target` is itself) unless its owner lives."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        if not try_exclusive(fd):
            return False
        if leads_to(path, fd):
            if target == path:
                path.unlink()
            else:
                path.rename(target)
        return True
    finally:
        os.close(fd)


def empty_trash(store: Store, remove: Remove = remove_tree_at) -> tuple[int, tuple[str, ...]]:
    """Delete the trash; return the bytes freed and what could not be deleted.

    Safe at any time. What is in the trash is wanted by nobody, however it came there.
    """
    left: list[str] = []
    freed = 0
    trash_fd = os.open(store.root / "trash", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in os.listdir(trash_fd):
            size = _size(store.root / "trash" / name)
            try:
                remove(trash_fd, os.fsencode(name))
            except OSError as error:
                left.append(f"{name}: {error.strerror}")
            else:
                freed += size
    finally:
        os.close(trash_fd)
    return freed, tuple(left)


def _size(path: Path) -> int:
    """Return the bytes on disk of a file or tree, as far as this user can see."""
    total = 0
    with suppress(FileNotFoundError):
        total = os.lstat(path).st_blocks * 512
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            with suppress(FileNotFoundError, PermissionError):
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
    return total
