"""Name the kinds of documents in an OCI image, and Docker's older names of the same."""

from __future__ import annotations

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
REF_NAME = "org.opencontainers.image.ref.name"

_DOCKER = "application/vnd.docker."
INDEX_TYPES = (INDEX_TYPE, f"{_DOCKER}distribution.manifest.list.v2+json")
MANIFEST_TYPES = (MANIFEST_TYPE, f"{_DOCKER}distribution.manifest.v2+json")
CONFIG_TYPES = (CONFIG_TYPE, f"{_DOCKER}container.image.v1+json")
LAYER_TYPES = tuple(
    f"{start}{compression}"
    for start, compressions in (
        (LAYER_TYPE, ("", "+gzip", "+zstd")),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar", ("", "+gzip", "+zstd")),
        (f"{_DOCKER}image.rootfs.diff.tar", ("", ".gzip", ".zstd")),
        (f"{_DOCKER}image.rootfs.foreign.diff.tar", ("", ".gzip", ".zstd")),
    )
    for compression in compressions
)
