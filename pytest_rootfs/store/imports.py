"""Bring foreign images into the store, as they are: every blob under its own digest.

A layer that travels compressed is kept so, and its uncompressed form is kept beside it, under its
diffID, as that is what is unpacked and built upon. Both are verified before they have a name. Any
number of processes may want one image: each layer is copied and decompressed once.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from pytest_rootfs.errors import ArchiveRejected, ImageError, LayerCorrupt
from pytest_rootfs.store.blobs import BlobWriter, Descriptor
from pytest_rootfs.store.bundles import File
from pytest_rootfs.store.compression import decompressed
from pytest_rootfs.store.digests import digest_of
from pytest_rootfs.store.foreign import ForeignImage, ForeignLayer
from pytest_rootfs.store.locks import Tell, is_no_room
from pytest_rootfs.store.manifests import manifest_of, read_image
from pytest_rootfs.store.media_types import CONFIG_TYPE, LAYER_TYPE
from pytest_rootfs.store.probes import repair_of
from pytest_rootfs.store.reading import CHUNK_BYTES, Readable
from pytest_rootfs.store.sources import Source, open_source
from pytest_rootfs.store.store import Store

_SETTLED_S = 1.0
"""How old a file's last change must be for its times to tell whether it is still the same."""


class Progress(Protocol):
    """Who is told how a copy of layers gets on."""

    def begin(self, layers: int) -> None:
        """Say how many layers there are."""

    def layer(self, digest: str, *, size: int | None, is_known: bool) -> None:
        """Say which comes next, how large it is, and whether it need not be copied."""

    def advance(self, size: int) -> None:
        """Say that more bytes of it were read."""


class Silence:
    """Nobody is told."""

    def begin(self, layers: int) -> None:
        """Say nothing."""

    def layer(self, digest: str, *, size: int | None, is_known: bool) -> None:
        """Say nothing."""

    def advance(self, size: int) -> None:
        """Say nothing."""


def import_image(
    store: Store,
    source: Source,
    *,
    progress: Progress | None = None,
    tell: Tell | None = None,
) -> Descriptor:
    """Bring an image into the store, unless it is there; return its manifest.

    Raises ImageNotFound, LayerCorrupt for content that is not what its digest says,
    ArchiveRejected for what breaks a rule; nothing of it has a name in the store then, but for
    layers that were sound.
    """
    if digest := _remembered(store, source):
        stored = read_image(store, digest)
        return Descriptor(digest=digest, size=stored.size, media_type=stored.media_type)
    try:
        with open_source(source, tmp=store.root / "tmp") as image:
            manifest = _Import(store, progress or Silence(), tell).image(image)
    except OSError as error:
        place = "" if error.filename is None else f": {os.fsdecode(error.filename)}"
        raise ImageError(
            f"cannot import {source} into the store {store.root}: {error.strerror}{place}",
            hint=repair_of(error) if is_no_room(error) else "",
        ) from error
    _remember(store, source, manifest.digest)
    return manifest


def find_imported(store: Store, source: Source) -> str | None:
    """Return the manifest of an image that the store has all of, without copying anything."""
    if digest := _remembered(store, source):
        return digest
    with open_source(source, tmp=store.root / "tmp") as image:
        if image.manifest is None:
            return None
        digest = digest_of(image.manifest)
    return digest if _is_complete(store, digest) else None


def inflate(
    store: Store, layer: Descriptor, diff_id: str, *, tell: Tell | None = None
) -> Descriptor:
    """Return the uncompressed form of a layer of the store, made if it is missing."""
    return _Import(store, Silence(), tell).inflated(layer, diff_id)


class _Import:
    """One import under way."""

    def __init__(self, store: Store, progress: Progress, tell: Tell | None) -> None:
        self._store = store
        self._progress = progress
        self._tell = tell

    def image(self, image: ForeignImage) -> Descriptor:
        """Import everything an image names, and then its manifest."""
        self._progress.begin(len(image.layers))
        layers = [self._layer(layer) for layer in image.layers]
        config = self._store.blobs.put(image.config, CONFIG_TYPE)
        manifest = manifest_of(config, layers) if image.manifest is None else image.manifest
        return self._store.blobs.put(manifest, image.media_type)

    def inflated(self, layer: Descriptor, diff_id: str) -> Descriptor:
        """Return a layer's uncompressed form, made of the compressed one if it is missing."""
        blobs = self._store.blobs
        if not blobs.has(diff_id):
            with self._locked(diff_id, "decompresses"):
                if not blobs.has(diff_id):
                    with blobs.verified(layer.digest) as file:
                        self._write(file, diff_id, f"layer {layer.digest}")
        return Descriptor(digest=diff_id, size=blobs.size(diff_id), media_type=LAYER_TYPE)

    def _layer(self, layer: ForeignLayer) -> Descriptor:
        blobs = self._store.blobs
        is_known = blobs.has(layer.diff_id) and (layer.blob is None or blobs.has(layer.blob.digest))
        size = None if layer.blob is None else layer.blob.size
        self._progress.layer(layer.diff_id, size=size, is_known=is_known)
        if layer.blob is not None:
            self._copy(layer, layer.blob)
            return self.inflated(layer.blob, layer.diff_id)
        if not is_known:
            with self._locked(layer.diff_id, "imports"):
                if not blobs.has(layer.diff_id):
                    what = f"layer {layer.diff_id}"
                    file = layer.open()
                    try:
                        self._write(_Counted(file, self._progress), layer.diff_id, what)
                    finally:
                        file.close()
        size = blobs.size(layer.diff_id)
        return Descriptor(digest=layer.diff_id, size=size, media_type=LAYER_TYPE)

    def _copy(self, layer: ForeignLayer, blob: Descriptor) -> None:
        """Take a blob as it is; it has no name before its size and digest are right."""
        if self._has(blob):
            return
        with self._locked(blob.digest, "imports"):
            if self._has(blob):
                return
            file = layer.open()
            try:
                with self._store.blobs.new() as writer:
                    for chunk in _chunks(file, blob.size):
                        writer.write(chunk)
                        self._progress.advance(len(chunk))
                    _expect(writer, blob.digest, f"blob {blob.digest}", size=blob.size)
                    writer.commit(blob.media_type)
            finally:
                file.close()

    def _locked(self, digest: str, does: str) -> AbstractContextManager[None]:
        doing = f"{does} layer {digest}"
        return self._store.lock(f"blob-{digest}", doing=doing, tell=self._tell)

    def _has(self, blob: Descriptor) -> bool:
        """Tell whether a blob is here, and not torn by a crash of the machine."""
        blobs = self._store.blobs
        return blobs.has(blob.digest) and blobs.size(blob.digest) == blob.size

    def _write(self, file: Readable, diff_id: str, what: str) -> None:
        """Write the uncompressed content of a file under its digest."""
        with self._store.blobs.new() as writer:
            for chunk in decompressed(file, what=what):
                writer.write(chunk)
            _expect(writer, diff_id, f"layer {diff_id}")
            writer.commit(LAYER_TYPE)


class _Counted:
    """A file whose reader is counted."""

    def __init__(self, file: File, progress: Progress) -> None:
        self._file = file
        self._progress = progress
        self.close = file.close

    def read(self, size: int, /) -> bytes:
        data = self._file.read(size)
        self._progress.advance(len(data))
        return data


def _chunks(file: File, size: int) -> Iterator[bytes]:
    """Yield a file, at most one byte more of it than there should be."""
    left = size + 1
    while left and (chunk := file.read(min(CHUNK_BYTES, left))):
        left -= len(chunk)
        yield chunk


def _expect(writer: BlobWriter, digest: str, what: str, *, size: int | None = None) -> None:
    if writer.digest == digest and size in (None, writer.size):
        return
    sizes = "" if size is None else f", and {writer.size} bytes where {size} were announced"
    raise LayerCorrupt(
        f"{what} is not what its digest says",
        detail=f"expected {digest}, found {writer.digest}{sizes}",
        hint="copy the image again from where it came",
    )


def _is_complete(store: Store, digest: str) -> bool:
    """Tell whether the store has an image with all its blobs, uncompressed ones too."""
    if not store.blobs.has(digest):
        return False
    try:
        image = read_image(store, digest)
    except (ArchiveRejected, LayerCorrupt):
        return False
    return all(map(store.blobs.has, (*image.diff_ids, *(layer.digest for layer in image.layers))))


def _remembered(store: Store, source: Source) -> str | None:
    """Return what an archive held, if it is still the same file and the store still has that."""
    result = store.cache.get(_key(source))
    if result is None or result.get("seen") != _seen(source):
        return None
    digest = str(result["manifest"])
    return digest if _is_complete(store, digest) else None


def _remember(store: Store, source: Source, digest: str) -> None:
    """Remember an archive's image, as finding it again means reading all of the archive."""
    seen = _seen(source)
    if seen is not None:
        store.cache.put(_key(source), {"manifest": digest, "seen": seen})


def _key(source: Source) -> str:
    text = f"import\0{source}\0{source.wanted}"
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def _seen(source: Source) -> list[int] | None:
    """Return what changes when a file does; None of a folder, and of a file just written."""
    try:
        found = os.stat(source.path)
    except OSError:
        return None
    if source.path.is_dir() or time.time() - found.st_ctime < _SETTLED_S:
        return None
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]
