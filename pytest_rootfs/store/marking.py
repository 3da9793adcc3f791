"""Find out what in a store is wanted, under the lock that every new reference shares.

Roots: tags, kept failures, the leases of living processes, and results of build steps. A manifest
that is reached brings its config and layers, and a config the uncompressed layers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from pytest_rootfs.store.digests import named_in
from pytest_rootfs.store.documents import JSON_BYTES_MAX
from pytest_rootfs.store.locks import take_if_dead
from pytest_rootfs.store.store import Store


def wanted_digests(store: Store) -> set[str]:
    """Return every digest that a root names, and what manifests among them name."""
    return _reached(store, _roots(store))


def leased_digests(store: Store) -> set[str]:
    """Return every digest that a living process uses, and what manifests among them name."""
    return _reached(store, _leases(store))


def _reached(store: Store, paths: Iterable[Path]) -> set[str]:
    """Return every digest that files name, and what manifests among them name."""
    pending: set[str] = set()
    for path in paths:
        with suppress(FileNotFoundError):
            pending |= named_in(path.read_text(errors="replace"))
    wanted: set[str] = set()
    while pending:
        digest = pending.pop()
        wanted.add(digest)
        pending |= _children(store, digest) - wanted
    return wanted


def _roots(store: Store) -> Iterator[Path]:
    """Yield the files whose digests are wanted; leases of the dead are removed meanwhile."""
    yield from (store.root / "refs").iterdir()
    yield from (store.root / "failures").glob("*/*.json")
    yield from results(store)
    yield from _leases(store)


def results(store: Store) -> Iterator[Path]:
    """Yield the results of build steps."""
    yield from (store.root / "cache").glob("*/*.json")


def _leases(store: Store) -> Iterator[Path]:
    for path in (store.root / "leases").iterdir():
        if not take_if_dead(path, path):
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
