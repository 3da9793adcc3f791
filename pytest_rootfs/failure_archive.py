"""Carry a kept failure from one store to another, as one file.

The file is an OCI image archive, so that podman and skopeo load what its index names: the state of
one container. Beside that it holds `failure.json`, the blobs of the failure's further containers,
and in `failure/` the files that hooks have added. Reading it refuses whatever else is in it, every
blob whose content is not what its name says, and what would show the new host to the old container.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from pytest_rootfs.errors import ArchiveRejected, LayerCorrupt
from pytest_rootfs.failure_record import FILE, Failure, KeptContainer
from pytest_rootfs.image.config import config_from_oci
from pytest_rootfs.store.archives import Archive
from pytest_rootfs.store.blobs import Descriptor
from pytest_rootfs.store.compression import Decompressed
from pytest_rootfs.store.digests import hex_of, is_digest
from pytest_rootfs.store.documents import index_of
from pytest_rootfs.store.entries import Entry, shown
from pytest_rootfs.store.manifests import read_image
from pytest_rootfs.store.media_types import LAYER_TYPE, MANIFEST_TYPE
from pytest_rootfs.store.opening import LAYOUT
from pytest_rootfs.store.platforms import fitness, platform
from pytest_rootfs.store.platforms import shown as shown_platform
from pytest_rootfs.store.reading import CHUNK_BYTES
from pytest_rootfs.store.tar_reader import Reader, read_entries

if TYPE_CHECKING:
    from pytest_rootfs.store.store import Store

_ADDED = "failure/"
_BLOBS = "blobs/sha256/"
_FOLDERS = (".", "blobs", "blobs/sha256", "failure")
_RECORD_BYTES_MAX = 64 << 20
_ID = re.compile(r"[0-9a-f]{6,64}", re.ASCII)
_IMAGE_HINT = "an image comes in by: pytest-rootfs import oci-archive:FILE --tag NAME"
_HINT = "give a file that `pytest-rootfs export ID FILE --format oci` has written"


# Writing.


def write_archive(
    store: Store, failure: Failure, kept: KeptContainer, path: Path, name: str
) -> None:
    """Write a failure to a new file; podman and skopeo find the container `kept` as `name`.

    Raises `LayerCorrupt` for a damaged blob.
    """
    portable = replace(failure, containers=tuple(map(_portable, failure.containers)))
    with path.open("xb") as file:
        archive = Archive(file)
        archive.add("oci-layout", LAYOUT)
        archive.add("index.json", index_of([(name, _manifest(store, kept))]))
        archive.add(FILE, _encoded(portable))
        for added in _added_files(failure):
            archive.add(f"{_ADDED}{added.relative_to(failure.folder or '')}", added.read_bytes())
        for blob in _blobs(store, portable):
            content = _verified(store, blob)
            archive.stream(f"{_BLOBS}{hex_of(blob.digest)}", blob.size, content)
        archive.close()


def _portable(kept: KeptContainer) -> KeptContainer:
    """Return a container without its files, if those are of no use without this host's own."""
    if not (kept.image.is_host and kept.manifest):
        return kept
    gap = "files: they lie on the root directory of the host that the failure came from"
    return replace(kept, manifest="", layer="", size=0, gaps=(*kept.gaps, gap))


def _encoded(failure: Failure) -> bytes:
    text = json.dumps(failure.to_json(), ensure_ascii=False, default=str)
    return text.encode(errors="surrogateescape")


def _added_files(failure: Failure) -> list[Path]:
    """Return what hooks have added to a failure: regular files only, whatever else is there."""
    if failure.folder is None:
        return []
    found = sorted(failure.folder.rglob("*"))
    return [
        path
        for path in found
        if path.is_file() and not path.is_symlink() and path != failure.folder / FILE
    ]


def _manifest(store: Store, kept: KeptContainer) -> Descriptor:
    size = store.blobs.size(kept.manifest)
    return Descriptor(digest=kept.manifest, size=size, media_type=MANIFEST_TYPE)


def _blobs(store: Store, failure: Failure) -> list[Descriptor]:
    """Return every blob that the containers of a failure are made of, once."""
    found: dict[str, Descriptor] = {}
    for kept in failure.containers:
        if kept.manifest:
            image = read_image(store, kept.manifest)
            parts = (_manifest(store, kept), image.config_blob, *image.layers)
            found |= {each.digest: each for each in parts}
    return [found[digest] for digest in sorted(found)]


def _verified(store: Store, blob: Descriptor) -> Iterator[bytes]:
    with store.blobs.verified(blob.digest) as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


# Reading.


class FailureArchive:
    """A failure that was read from a file: its blobs are in the store, its record is not yet.

    A context manager, as the files that hooks have added wait in a temporary folder.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._record = b""
        self._folder = Path(tempfile.mkdtemp(prefix="pytest-rootfs-"))

    def __enter__(self) -> FailureArchive:
        """Remove the temporary folder on exit."""
        return self

    def __exit__(self, *exception: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def read(self, file: BinaryIO, what: str) -> Failure:
        """Return the failure in an archive; raises `ArchiveRejected` for anything that is none."""
        try:
            for entry, content in read_entries(Decompressed(file, what=what)):
                self._take(entry, content)
            return self._checked()
        except (ArchiveRejected, LayerCorrupt) as error:
            detail = "\n".join(filter(None, [error.what, error.detail]))
            hint = error.hint if error.hint == _IMAGE_HINT else _HINT
            raise ArchiveRejected(
                f"{what} is no archive of a failure", detail=detail, hint=hint
            ) from error

    def add_files(self, folder: Path) -> None:
        """Copy the files that hooks have added to where the failure is kept now."""
        shutil.copytree(self._folder, folder, dirs_exist_ok=True)

    def _take(self, entry: Entry, content: Reader) -> None:
        name = os.fsdecode(entry.name)
        if entry.kind == "dir" and (name in _FOLDERS or name.startswith(_ADDED)):
            return
        if entry.kind != "file":
            raise ArchiveRejected(f"entry {shown(entry.name)} is a {entry.kind}, not a file")
        if name.startswith(_BLOBS):
            self._take_blob(name[len(_BLOBS) :], content)
        elif name.startswith(_ADDED):
            self._take_added(name[len(_ADDED) :], content)
        elif name == FILE:
            if entry.size > _RECORD_BYTES_MAX:
                raise ArchiveRejected(f"{FILE} has {entry.size} bytes")
            self._record = content.read()
        elif name not in ("index.json", "oci-layout"):
            raise ArchiveRejected(f"entry {shown(entry.name)} does not belong there")

    def _take_added(self, name: str, content: Reader) -> None:
        if name == FILE:  # it would take the place of the record that was checked
            raise ArchiveRejected(f"entry {_ADDED}{FILE} does not belong there")
        place = self._folder / name
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("xb") as out:
                out.writelines(content)
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise ArchiveRejected(f"two entries want the name {_ADDED}{name}") from error

    def _take_blob(self, name: str, content: Reader) -> None:
        digest = f"sha256:{name}"
        if not is_digest(digest):
            raise ArchiveRejected(f"the blob {name!r} has no digest as its name")
        with self._store.blobs.new() as writer:
            for chunk in content:
                writer.write(chunk)
            if writer.digest != digest:
                raise ArchiveRejected(
                    f"blob {digest} is damaged: its content has the digest {writer.digest}"
                )
            writer.commit(LAYER_TYPE)

    def _checked(self) -> Failure:
        """Return the failure of the record, once all that it names is found in the store."""
        if not self._record:
            raise ArchiveRejected(f"it holds no {FILE}", hint=_IMAGE_HINT)
        try:
            failure = Failure.from_json(json.loads(self._record.decode(errors="surrogateescape")))
            _check_values(failure)
        except (ValueError, RecursionError) as error:
            raise ArchiveRejected(f"its {FILE} cannot be read", detail=str(error)) from error
        if not _ID.fullmatch(failure.id):
            raise ArchiveRejected(f"its {FILE} has the id {failure.id!r}")
        containers = [
            self._with_files_checked(kept) if kept.manifest else kept for kept in failure.containers
        ]
        return replace(failure, containers=tuple(map(_without_host, containers)))

    def _with_files_checked(self, kept: KeptContainer) -> KeptContainer:
        """Return a container whose image is whole; a gap says when it is for another machine."""
        if kept.image.is_host:  # its programs would run on top of this host's root directory
            raise ArchiveRejected(f"its {FILE} has files for the image {kept.image.name!r}")
        image = read_image(self._store, kept.manifest)
        if image.diff_ids != (*kept.image.layers, kept.layer):
            raise ArchiveRejected(f"its manifest {kept.manifest} is not that of its {FILE}")
        for layer in image.layers:
            if (size := self._store.blobs.size(layer.digest)) != layer.size:
                raise ArchiveRejected(
                    f"blob {layer.digest} has {size} bytes where {layer.size} were announced"
                )
        if fitness(image.config):
            return kept
        gap = (
            f"programs: they are for {shown_platform(image.config)}, and this machine is "
            f"{shown_platform(platform())}; show, diff, ls, cat and cp need none"
        )
        return replace(kept, gaps=(*kept.gaps, gap))


def _check_values(failure: Failure) -> None:
    """Raise `ValueError` for what has the form of a failure, and cannot be one."""
    moment = datetime.fromisoformat(failure.time)  # `last` is found, and old ones go, by it
    if moment.tzinfo is None:
        raise ValueError(f"time={failure.time!r} has no time zone")
    for kept in failure.containers:
        config_from_oci(kept.image.config)


def _without_host(kept: KeptContainer) -> KeptContainer:
    """Return a container that gets nothing of this host: neither paths of it nor its network."""
    gaps = tuple(
        f"mount {each['target']}: {each['source']} is on the host that the failure came from"
        for each in kept.options.get("mounts", ())
    )
    if kept.options.get("network") == "host":
        gaps += ("network: it was that of the host that the failure came from",)
    options = {key: text for key, text in kept.options.items() if key not in ("mounts", "network")}
    return replace(kept, options=options, gaps=(*kept.gaps, *gaps))
