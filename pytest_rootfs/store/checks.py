"""Verify all of a store: every blob, name, index, unpacked layer and remembered result.

Safe while others use the store. What is damaged and can be made again may be taken away, so that it
is: a blob under its name keeps every sound one from taking it.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pytest_rootfs.errors import ImageError, LayerCorrupt
from pytest_rootfs.store.digests import ALGORITHM, is_digest
from pytest_rootfs.store.documents import write_atomically
from pytest_rootfs.store.locks import fresh_name, locked
from pytest_rootfs.store.manifests import read_image
from pytest_rootfs.store.opening import LAYOUT
from pytest_rootfs.store.refs import read_ref
from pytest_rootfs.store.store import Store

Repair = Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is wrong, in one sentence; `repair` makes it right, if anything but a new build can."""

    path: str
    what: str
    repair: Repair | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was looked at and found; `repaired` are those of the problems that are gone."""

    blobs: int
    layers: int
    problems: tuple[Problem, ...]
    repaired: tuple[Problem, ...]


def fsck(store: Store, *, repair: bool = False) -> Report:
    """Verify everything, reading every blob; with `repair` take away what can be made again."""
    check = _Check(store)
    problems = list(check.problems())
    repaired = []
    for problem in problems:
        if repair and problem.repair is not None:
            with locked(store.root / "locks" / "gc.lock", label="repairs the store"):
                problem.repair()
            repaired.append(problem)
    return Report(
        blobs=check.blobs, layers=check.layers, problems=tuple(problems), repaired=tuple(repaired)
    )


class _Check:
    """One look at a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._root = store.root
        self._damaged: set[str] = set()
        self.blobs = 0
        self.layers = 0

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong. Names and indexes come last: others explain what is wrong there."""
        yield from self._blobs()
        yield from self._layers()
        yield from self._results()
        yield from self._refs()
        yield from self._failures()
        yield from self._layout()

    def _blobs(self) -> Iterator[Problem]:
        for path in sorted((self._root / "blobs" / ALGORITHM).iterdir()):
            digest = f"{ALGORITHM}:{path.name}"
            with suppress(FileNotFoundError):  # collected meanwhile
                if not is_digest(digest) or not stat.S_ISREG(os.lstat(path).st_mode):
                    yield self._gone(path, "is no blob")
                    continue
                self.blobs += 1
                try:
                    with self._store.blobs.verified(digest):
                        pass
                except LayerCorrupt as error:
                    if path.exists():
                        self._damaged.add(digest)
                        yield self._gone(path, f"is damaged: {error.detail}")

    def _layers(self) -> Iterator[Problem]:
        for path in sorted((self._root / "layers").glob("*/*")):
            digest = f"{ALGORITHM}:{path.name}"
            if not is_digest(digest):
                continue  # the rw layer of a running container
            self.layers += 1
            if not (path / "fs").is_dir():
                yield self._gone(path, "has no files")
                continue
            try:
                meta = json.loads((path / "meta.json").read_bytes())
                named = meta["diff_id"]
            except FileNotFoundError:
                if path.exists():
                    yield self._gone(path, "has no meta.json")
            except (ValueError, KeyError, TypeError):
                yield self._gone(path, "has a damaged meta.json")
            else:
                if named != digest and not meta.get("uses_below"):
                    yield self._gone(path, f"says that it is layer {named}")

    def _results(self) -> Iterator[Problem]:
        for path in sorted((self._root / "cache").glob("*/*.json")):
            with suppress(FileNotFoundError):
                if not _is_object(path):
                    yield self._gone(path, "is a damaged result of a build step")

    def _refs(self) -> Iterator[Problem]:
        for path in sorted((self._root / "refs").iterdir()):
            try:
                ref = read_ref(path)
            except FileNotFoundError:
                continue
            except LayerCorrupt as error:
                yield self._gone(path, f"leads to no image: {error.detail}")
                continue
            yield from self._image(path, str(ref["digest"]), f"image {ref['name']!r}")

    def _failures(self) -> Iterator[Problem]:
        for path in sorted((self._root / "failures").glob("*/failure.json")):
            with suppress(FileNotFoundError):
                try:
                    failure = json.loads(path.read_bytes())
                    every = [failure, *failure.get("containers", ())]
                    kept = [str(each["manifest"]) for each in every]
                except (ValueError, KeyError, TypeError, AttributeError):
                    yield Problem(path=self._shown(path), what="is damaged")
                    continue
                for digest in filter(None, kept):
                    yield from self._image(path, digest, f"failure {path.parent.name}")

    def _image(self, path: Path, digest: str, who: str) -> Iterator[Problem]:
        """Yield what an image lacks; only building or importing it again helps."""
        try:
            image = read_image(self._store, digest)
        except ImageError as error:
            yield Problem(path=self._shown(path), what=f"{who} cannot be used: {error.what}")
            return
        for layer, diff_id in zip(image.layers, image.diff_ids, strict=True):
            blobs = self._store.blobs
            sound = [
                each
                for each in (layer.digest, diff_id)
                if each not in self._damaged and blobs.path(each).exists()
            ]
            if not sound:
                yield Problem(
                    path=self._shown(path),
                    what=f"{who} cannot be used: its layer {layer.digest} is missing or damaged",
                )
            elif layer.digest in sound and blobs.size(layer.digest) != layer.size:
                yield Problem(
                    path=self._shown(path),
                    what=f"{who} cannot be used: its layer {layer.digest} has "
                    f"{blobs.size(layer.digest)} bytes, not {layer.size}",
                )

    def _layout(self) -> Iterator[Problem]:
        path = self._root / "oci-layout"
        if path.read_bytes() != LAYOUT:
            yield Problem(
                path="oci-layout",
                what="is damaged",
                repair=lambda: write_atomically(path, LAYOUT, tmp=self._root / "tmp"),
            )
        if not self._store.refs.is_indexed():
            yield Problem(
                path="index.json",
                what="does not list the images that have names",
                repair=self._store.refs.write_index,
            )

    def _gone(self, path: Path, what: str) -> Problem:
        """Return a problem that is repaired by taking the path away."""

        def take() -> None:
            with suppress(FileNotFoundError):
                path.rename(self._root / "trash" / fresh_name())

        return Problem(path=self._shown(path), what=what, repair=take)

    def _shown(self, path: Path) -> str:
        return str(path.relative_to(self._root))


def _is_object(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_bytes()), dict)
    except ValueError:
        return False
