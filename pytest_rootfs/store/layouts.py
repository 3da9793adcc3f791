"""Read an image out of an OCI image layout, or of the folder that skopeo calls `dir:`."""

from __future__ import annotations

import functools
from collections.abc import Callable

from pytest_rootfs.errors import ArchiveRejected, LayerCorrupt
from pytest_rootfs.store import indexes
from pytest_rootfs.store.blobs import Descriptor
from pytest_rootfs.store.bundles import Bundle, File, read_document
from pytest_rootfs.store.digests import digest_of, hex_of
from pytest_rootfs.store.documents import JSON_BYTES_MAX, parse_json
from pytest_rootfs.store.foreign import ForeignImage, ForeignLayer
from pytest_rootfs.store.manifests import read_config, read_manifest
from pytest_rootfs.store.media_types import INDEX_TYPE, INDEX_TYPES, MANIFEST_TYPE

Names = Callable[[str], str]
"""How a digest is written as the name of a file."""


def read_layout(bundle: Bundle, *, wanted: str, what: str) -> ForeignImage:
    """Return an image of an OCI image layout; `wanted` is a name, `@sha256:…` or nothing."""
    try:
        layout = parse_json(read_document(bundle, "oci-layout"), what=f"oci-layout of {what}")
        index = read_document(bundle, "index.json")
    except FileNotFoundError as error:
        raise ArchiveRejected(
            f"{what} is no OCI image layout: it has no {error.filename}"
        ) from error
    version = layout.get("imageLayoutVersion")
    if not isinstance(version, str) or not version.startswith("1."):
        raise ArchiveRejected(f"{what} is an OCI image layout of version {version!r}, not 1.0.0")
    blobs = _Blobs(bundle, what, lambda digest: f"blobs/sha256/{hex_of(digest)}")
    manifest = indexes.choose(index, wanted=wanted, what=what, read=blobs.document)
    return _image(blobs, blobs.document(manifest), manifest.media_type)


def read_skopeo_folder(bundle: Bundle, *, what: str) -> ForeignImage:
    """Return the image of a folder that `skopeo copy … dir:PATH` has written."""
    blobs = _Blobs(bundle, what, hex_of)
    content = read_document(bundle, "manifest.json")
    document = parse_json(content, what=f"manifest.json of {what}")
    media_type = document.get("mediaType")
    if not isinstance(media_type, str):
        media_type = INDEX_TYPE if "manifests" in document else MANIFEST_TYPE
    if media_type not in INDEX_TYPES:
        return _image(blobs, content, media_type)
    inner = _Blobs(bundle, what, lambda digest: f"{hex_of(digest)}.manifest.json")
    manifest = indexes.choose(content, wanted="", what=what, read=inner.document)
    return _image(blobs, inner.document(manifest), manifest.media_type)


class _Blobs:
    """The blobs of a bundle, by digest."""

    def __init__(self, bundle: Bundle, what: str, name_of: Names) -> None:
        self._bundle = bundle
        self.what = what
        self._name_of = name_of

    def open(self, digest: str) -> File:
        """Open a blob; its content is for others to verify."""
        try:
            return self._bundle.open(self._name_of(digest))
        except FileNotFoundError as error:
            raise LayerCorrupt(
                f"{self.what} is incomplete: it has no {error.filename}",
                hint="copy the image again; what lies elsewhere (`urls`) is never fetched",
            ) from error

    def document(self, blob: Descriptor) -> bytes:
        """Return a verified manifest, index or config."""
        if blob.size > JSON_BYTES_MAX:
            raise ArchiveRejected(
                f"document {blob.digest} of {self.what} has {blob.size} bytes, the limit is "
                f"{JSON_BYTES_MAX}"
            )
        self.open(blob.digest).close()  # says that it is missing
        content = read_document(self._bundle, self._name_of(blob.digest))
        found = digest_of(content)
        if found != blob.digest or len(content) != blob.size:
            raise LayerCorrupt(
                f"blob {blob.digest} of {self.what} is damaged",
                detail=f"its {len(content)} bytes have the digest {found}, not {blob.size} bytes",
                hint="copy the image again",
            )
        return content


def _image(blobs: _Blobs, content: bytes, media_type: str) -> ForeignImage:
    what = f"manifest {digest_of(content)} of {blobs.what}"
    manifest = read_manifest(content, what=what, media_type=media_type)
    config = blobs.document(manifest.config)
    diff_ids = read_config(config, manifest)["rootfs"]["diff_ids"]
    return ForeignImage(
        manifest=content,
        media_type=manifest.media_type,
        config=config,
        layers=tuple(
            ForeignLayer(
                diff_id=diff_id, blob=layer, open=functools.partial(blobs.open, layer.digest)
            )
            for diff_id, layer in zip(diff_ids, manifest.layers, strict=True)
        ),
    )
