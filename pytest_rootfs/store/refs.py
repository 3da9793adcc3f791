"""Give manifests names, and show the named ones to other tools in `index.json`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import quote, unquote

from pytest_rootfs.errors import ArchiveRejected
from pytest_rootfs.store.blobs import Blobs
from pytest_rootfs.store.documents import canonical_json, parse_json, write_atomically
from pytest_rootfs.store.locks import locked
from pytest_rootfs.store.media_types import INDEX_TYPE, MANIFEST_TYPE, REF_NAME

__all__ = ["MANIFEST_TYPE", "Refs"]


class Refs:
    """The tags of one store: a name leads to the digest of a manifest that is in the store."""

    def __init__(self, root: Path, blobs: Blobs, *, hold: Callable[[str], None]) -> None:
        self._root = root
        self._blobs = blobs
        self._hold = hold

    def get(self, name: str) -> str | None:
        """Return the manifest digest that `name` has, or None; it is held from now on."""
        while True:
            digest = self._read(self._path(name))
            if digest is None:
                return None
            self._hold(digest)
            # The name may have moved, and its old image been collected, before we held it.
            if digest == self._read(self._path(name)):
                return digest

    def set(self, name: str, digest: str, *, media_type: str = MANIFEST_TYPE) -> None:
        """Let `name` mean `digest` from now on; raises LayerCorrupt if there is no such blob."""
        path = self._path(name)
        self._hold(digest)
        size = self._blobs.size(digest)
        document = {"digest": digest, "mediaType": media_type, "name": name, "size": size}
        with self._locked():
            write_atomically(path, canonical_json(document), tmp=self._root / "tmp")
            self._write_index()

    def delete(self, name: str) -> bool:
        """Forget `name`; False when there was no such name."""
        with self._locked():
            try:
                self._path(name).unlink()
            except FileNotFoundError:
                return False
            self._write_index()
        return True

    def list(self) -> dict[str, str]:
        """Return every name with its digest, sorted by name."""
        return {str(ref["name"]): str(ref["digest"]) for ref in self._documents()}

    def _locked(self) -> AbstractContextManager[None]:
        return locked(self._root / "locks" / "index.lock", label="index.json")

    def _path(self, name: str) -> Path:
        quoted = quote(name, safe="@+=,:")
        if quoted.startswith("."):
            quoted = "%2E" + quoted[1:]  # would be hidden, or be "." or ".."
        if not name or not name.isprintable() or len(quoted) > 250:
            raise ArchiveRejected(f"{name!r} cannot be the name of an image")
        return self._root / "refs" / quoted

    def _read(self, path: Path) -> str | None:
        try:
            return str(parse_json(path.read_bytes(), what=f"ref {unquote(path.name)}")["digest"])
        except FileNotFoundError:
            return None

    def _documents(self) -> Iterator[dict[str, object]]:
        for name in sorted(os.listdir(self._root / "refs")):
            try:
                content = (self._root / "refs" / name).read_bytes()
            except FileNotFoundError:
                continue
            yield parse_json(content, what=f"ref {unquote(name)}")

    def _write_index(self) -> None:
        manifests = [
            {
                "annotations": {REF_NAME: ref["name"]},
                "digest": ref["digest"],
                "mediaType": ref["mediaType"],
                "size": ref["size"],
            }
            for ref in self._documents()
        ]
        index = {"manifests": manifests, "mediaType": INDEX_TYPE, "schemaVersion": 2}
        write_atomically(self._root / "index.json", canonical_json(index), tmp=self._root / "tmp")
