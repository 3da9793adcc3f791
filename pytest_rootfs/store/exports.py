"""Write an image of the store to a file or folder that other tools read.

`oci` is an OCI image layout in a tar archive (skopeo `oci-archive:`), `docker` what `docker save`
writes (`docker-archive:`, `docker load`), `dir` an OCI image layout as a folder (`oci:`). Blobs of
OCI layouts are those of the store, so an imported image leaves with the digest it came with; an
archive for docker holds uncompressed layers, as its config names them. The result depends on the
image and its name only, and appears complete or not at all.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from pytest_rootfs.errors import ImageError, LayerCorrupt
from pytest_rootfs.store.archives import Archive
from pytest_rootfs.store.blobs import HEAL, Descriptor
from pytest_rootfs.store.digests import hex_of
from pytest_rootfs.store.documents import canonical_json, index_of
from pytest_rootfs.store.imports import Progress, Silence, inflate
from pytest_rootfs.store.manifests import StoredImage, read_image
from pytest_rootfs.store.opening import LAYOUT
from pytest_rootfs.store.reading import CHUNK_BYTES
from pytest_rootfs.store.store import Store
from pytest_rootfs.store.trees import remove_tree

Format = Literal["oci", "docker", "dir"]

_HOST = re.compile(r"[a-z0-9.-]+:\d+", re.ASCII)
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)


def export(
    store: Store,
    manifest_digest: str,
    path: Path,
    *,
    format: Format = "oci",  # noqa: A002  the public name
    name: str = "",
    progress: Progress | None = None,
) -> None:
    """Write the image `manifest_digest` to `path`; every blob is verified on the way.

    A file is replaced, a link to it followed; a folder (`dir`) must be missing or empty. Raises
    ImageError when `path` cannot be written, LayerCorrupt for a damaged blob.
    """
    image = read_image(store, manifest_digest)
    writers: dict[Format, Callable[[_Reading, StoredImage, Path, str], None]] = {
        "oci": _write_oci_archive,
        "docker": _write_docker_archive,
        "dir": _write_folder,
    }
    if format not in writers:
        raise ValueError(f"format={format!r} is not one of {', '.join(map(repr, writers))}")
    path = Path(os.path.realpath(path))
    if path.exists() and not (path.is_file() or path.is_dir()):
        # as root the rename would succeed, and take the device away from the whole machine
        raise ImageError(
            f"cannot export image {manifest_digest} to {path}: it is a device, a pipe or a socket",
            hint="give the path of a file or folder",
        )
    written = path.parent / f".{path.name[:200]}.{os.urandom(4).hex()}"
    try:
        try:
            writers[format](_Reading(store, progress or Silence()), image, written, name)
            os.rename(written, path)
        except BaseException:
            remove_tree(written)
            raise
    except OSError as error:
        raise ImageError(
            f"cannot export image {manifest_digest} to {path}: {error.strerror}"
        ) from error


class _Reading:
    """The blobs that are exported, and who is told of it."""

    def __init__(self, store: Store, progress: Progress) -> None:
        self.store = store
        self.progress = progress

    def content(self, blob: Descriptor) -> Iterator[bytes]:
        """Yield a blob's content; raise at its end unless it was what the digest says."""
        self.progress.layer(blob.digest, size=blob.size, is_known=False)
        with self.store.blobs.verified(blob.digest) as file:
            while (chunk := file.read(CHUNK_BYTES)) and file.size <= blob.size:
                self.progress.advance(len(chunk))
                yield chunk
        if file.size != blob.size:
            raise LayerCorrupt(
                f"blob {blob.digest} has {file.size} bytes where {blob.size} were announced",
                hint=HEAL,
            )


def _write_oci_archive(reading: _Reading, image: StoredImage, path: Path, name: str) -> None:
    with path.open("wb") as file:
        archive = Archive(file)
        for blob in _blobs(reading, image):
            archive.stream(_path(blob), blob.size, reading.content(blob))
        archive.add("index.json", index_of([(name, _manifest(image))]))
        archive.add("oci-layout", LAYOUT)
        archive.close()


def _write_docker_archive(reading: _Reading, image: StoredImage, path: Path, name: str) -> None:
    config = f"{hex_of(image.config_blob.digest)}.json"
    pairs = zip(image.layers, image.diff_ids, strict=True)
    layers = tuple(inflate(reading.store, layer, diff_id) for layer, diff_id in pairs)
    manifest = {
        "Config": config,
        "Layers": [f"{hex_of(layer.digest)}.tar" for layer in layers],
        "RepoTags": [docker_name(name)] if name else [],
    }
    reading.progress.begin(len(layers))
    with path.open("wb") as file:
        archive = Archive(file)
        archive.add("manifest.json", canonical_json([manifest]))
        archive.stream(config, image.config_blob.size, reading.content(image.config_blob))
        for layer in _without_repeats(layers):
            archive.stream(f"{hex_of(layer.digest)}.tar", layer.size, reading.content(layer))
        archive.close()


def _write_folder(reading: _Reading, image: StoredImage, path: Path, name: str) -> None:
    (path / "blobs" / "sha256").mkdir(parents=True)
    for blob in _blobs(reading, image):
        with (path / _path(blob)).open("wb") as file:
            for chunk in reading.content(blob):
                file.write(chunk)
    (path / "index.json").write_bytes(index_of([(name, _manifest(image))]))
    (path / "oci-layout").write_bytes(LAYOUT)


def _blobs(reading: _Reading, image: StoredImage) -> list[Descriptor]:
    """Return every blob of an image once, in the order of digests."""
    reading.progress.begin(len(image.layers))
    blobs = _without_repeats((_manifest(image), image.config_blob, *image.layers))
    return sorted(blobs, key=lambda blob: blob.digest)


def _without_repeats(blobs: tuple[Descriptor, ...]) -> list[Descriptor]:
    return list({blob.digest: blob for blob in blobs}.values())


def _manifest(image: StoredImage) -> Descriptor:
    return Descriptor(digest=image.digest, size=image.size, media_type=image.media_type)


def _path(blob: Descriptor) -> str:
    """Return where an OCI image layout has a blob."""
    return f"blobs/sha256/{hex_of(blob.digest)}"


def docker_name(name: str) -> str:
    """Return a name as `docker tag` accepts it: lower case, `-` for what it refuses, a tag."""
    folder, _, last = name.rpartition("/")
    repository, _, tag = last.partition(":")
    host, _, rest = folder.partition("/")
    parts = [host] if _HOST.fullmatch(host) else [_component(host)]
    parts += [_component(part) for part in (*rest.split("/"), repository)]
    full = "/".join(part for part in parts if part) or "image"
    return f"{full}:{tag if _TAG.fullmatch(tag) else 'latest'}"


def _component(text: str) -> str:
    text = re.sub(r"[^a-z0-9._-]+", "-", text.lower())
    return re.sub(r"([._-])[._-]*", r"\1", text).strip("._-")
