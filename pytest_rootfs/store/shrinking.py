"""Choose what a store can do without when it must become smaller: what can be made again.

In this order, and of each kind the least recently used first: unpacked layers, uncompressed copies
of layers that were imported compressed, results of build steps with what only they name. What a
running session uses stays; so do tagged images and kept failures, except for what is made of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pytest_rootfs.errors import ImageError
from pytest_rootfs.store import marking
from pytest_rootfs.store.digests import ALGORITHM, is_digest
from pytest_rootfs.store.documents import JSON_BYTES_MAX
from pytest_rootfs.store.manifests import read_image
from pytest_rootfs.store.store import Store

Take = Callable[[Path], None]


@dataclass(slots=True, kw_only=True)
class Shrunk:
    """What went, by kind, and the bytes that are left."""

    size_bytes: int
    blobs: int = 0
    layers: int = 0
    results: int = 0


def shrink(store: Store, size_bytes: int, take: Take) -> Shrunk:
    """Take away what can be made again until the store has at most `size_bytes`, if it can.

    `take` moves a path to the trash. Call it under the lock of collections, after one.
    """
    leased = marking.leased_digests(store)
    done = Shrunk(size_bytes=sum(size for _, size in _blobs(store)))
    unpacked = sorted(_layers(store), key=_last_use)
    done.size_bytes += sum(map(_layer_bytes, unpacked))
    for path in unpacked:
        if done.size_bytes <= size_bytes:
            return done
        if f"{ALGORITHM}:{path.name}" not in leased:
            done.size_bytes -= _layer_bytes(path)
            done.layers += 1
            take(path)
    for digest in _copies(store):
        if done.size_bytes <= size_bytes:
            return done
        if digest not in leased:
            path = store.blobs.path(digest)
            done.size_bytes -= _disk_bytes(path)
            done.blobs += 1
            take(path)
    _shrink_results(store, size_bytes, take, done)
    return done


def _shrink_results(store: Store, size_bytes: int, take: Take, done: Shrunk) -> None:
    for result in sorted(marking.results(store), key=_last_use):
        if done.size_bytes <= size_bytes:
            return
        result.unlink(missing_ok=True)
        done.results += 1
        wanted = marking.wanted_digests(store)
        for path, size in list(_blobs(store)):
            if f"{ALGORITHM}:{path.name}" not in wanted:
                done.size_bytes -= size
                done.blobs += 1
                take(path)


def _blobs(store: Store) -> Iterator[tuple[Path, int]]:
    for path in (store.root / "blobs" / ALGORITHM).iterdir():
        yield path, _disk_bytes(path)


def _layers(store: Store) -> list[Path]:
    found = (store.root / "layers").glob("*/*")
    return [path for path in found if is_digest(f"{ALGORITHM}:{path.name}")]


def _layer_bytes(path: Path) -> int:
    """Return about what an unpacked layer takes: walking through it would take too long."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return int(json.loads((path / "meta.json").read_bytes())["size"])
    return 0


def _copies(store: Store) -> list[str]:
    """Return the layers that can be decompressed again, the least recently used first."""
    found: dict[str, None] = {}
    needed: set[str] = set()
    for path, _ in _blobs(store):
        digest = f"{ALGORITHM}:{path.name}"
        if os.lstat(path).st_size > JSON_BYTES_MAX or not _is_object(path):
            continue
        try:
            image = read_image(store, digest)
        except ImageError:
            continue  # another kind of document, or a damaged one
        for layer, diff_id in zip(image.layers, image.diff_ids, strict=True):
            needed.add(layer.digest)
            if layer.digest != diff_id and store.blobs.path(layer.digest).exists():
                found[diff_id] = None
    copies = [each for each in found if each not in needed and store.blobs.path(each).exists()]
    return sorted(copies, key=lambda each: _last_use(store.blobs.path(each)))


def _is_object(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1) == b"{"


def _last_use(path: Path) -> float:
    """Return when a layer, a blob or a result was used, as far as it is written down."""
    with suppress(OSError):
        return os.lstat(path / "meta.json").st_atime
    with suppress(OSError):
        return os.lstat(path).st_mtime
    return 0.0


def _disk_bytes(path: Path) -> int:
    with suppress(FileNotFoundError):
        return os.lstat(path).st_blocks * 512
    return 0
