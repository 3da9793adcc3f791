"""Write foreign images by hand: OCI layouts whose every document may be wrong."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from archives import archive, file, folder

from pytest_rootfs.store import oci
from pytest_rootfs.store.imports import import_image
from pytest_rootfs.store.sources import parse_source
from pytest_rootfs.store.store import Store

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
REF_NAME = "org.opencontainers.image.ref.name"

Json = dict[str, Any]  # documents of every shape


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def layer(text: str) -> bytes:
    """Return an uncompressed layer with one file."""
    return archive(folder("."), folder("srv"), file(f"srv/{text}", text.encode() * 1000))


@dataclass
class Layout:
    """An OCI image layout that is being written."""

    path: Path
    rows: list[Json] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.path / "blobs" / "sha256").mkdir(parents=True)
        (self.path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        self.write_index()

    def blob(self, content: bytes, media_type: str, **more: object) -> Json:
        """Write a blob and return its descriptor."""
        self.file(digest_of(content)).write_bytes(content)
        return {
            "digest": digest_of(content),
            "mediaType": media_type,
            "size": len(content),
            **more,
        }

    def file(self, digest: str) -> Path:
        """Return where a blob is."""
        return self.path / "blobs" / "sha256" / digest.partition(":")[2]

    def document(self, value: object, media_type: str, **more: object) -> Json:
        """Write a JSON document and return its descriptor."""
        return self.blob(json.dumps(value).encode(), media_type, **more)

    def add(
        self,
        layers: Sequence[bytes] = (),
        *,
        name: str = "",
        platform: Json | None = None,
        blobs: Iterable[Json] | None = None,
        diff_ids: Sequence[str] | None = None,
        config: Mapping[str, object] | None = None,
        manifest: Mapping[str, object] | None = None,
    ) -> Json:
        """Write an image of gzip layers, or of `blobs`, and list it; return its descriptor."""
        found = [digest_of(each) for each in layers] if diff_ids is None else list(diff_ids)
        if blobs is None:
            blobs = [self.blob(gzip.compress(each, mtime=0), f"{LAYER}+gzip") for each in layers]
        written = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": ["A=b"], "ExposedPorts": {"80/tcp": {}}},
            "rootfs": {"type": "layers", "diff_ids": found},
            **(config or {}),
        }
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.document(written, CONFIG),
            "layers": list(blobs),
            **(manifest or {}),
        }
        row = self.document(document, MANIFEST)
        if platform is not None:
            row["platform"] = platform
        if name:
            row["annotations"] = {REF_NAME: name}
        self.rows.append(row)
        self.write_index()
        return row

    def write_index(self, **more: object) -> None:
        """Write the list of images, or what else it is to be."""
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": self.rows, **more}
        (self.path / "index.json").write_text(json.dumps(index))


def tar_of(path: Path, target: Path) -> Path:
    """Write a folder's content as an archive."""
    with tarfile.open(target, "w") as tar:
        for name in sorted(os.listdir(path)):
            tar.add(path / name, name)
    return target


def docker_archive(
    target: Path,
    layers: Sequence[bytes],
    *,
    tags: Sequence[str] = ("app:1",),
    names: Sequence[str] | None = None,
    extra: Iterable[tarfile.TarInfo] = (),
    manifest: bytes | None = None,
) -> Path:
    """Write what `docker save` writes."""
    diff_ids = [digest_of(each) for each in layers]
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": diff_ids}}
    files = {f"{number}/layer.tar": content for number, content in enumerate(layers)}
    row = {"Config": "config.json", "RepoTags": list(tags), "Layers": names or list(files)}
    files["config.json"] = json.dumps(config).encode()
    files["manifest.json"] = manifest or json.dumps([row]).encode()
    with tarfile.open(target, "w") as tar:
        for member in extra:
            tar.addfile(member)
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return target


def imported(store: Store, reference: str) -> oci.StoredImage:
    """Bring an image into a store and read it back."""
    return oci.read_image(store, import_image(store, parse_source(reference)).digest)
