"""Give manifests names, and show the named ones to other tools in `index.json`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any  # decoded JSON only
from urllib.parse import quote, unquote

from pytest_rootfs.errors import ArchiveRejected, LayerCorrupt
from pytest_rootfs.store.blobs import HEAL, Blobs, Descriptor
from pytest_rootfs.store.digests import is_digest
from pytest_rootfs.store.documents import canonical_json, index_of, parse_json, write_atomically
from pytest_rootfs.store.locks import is_no_room, locked
from pytest_rootfs.store.media_types import MANIFEST_TYPE


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

    def catch_up(self) -> None:
        """Write `index.json` if it is missing, or somebody was killed between a name and it."""
        index = self._root / "index.json"
        try:
            named = os.stat(self._root / "refs").st_mtime_ns
            if not index.exists() or named >= os.stat(index).st_mtime_ns:
                self.write_index()
        except OSError as error:
            if not is_no_room(error):
                raise

    def write_index(self) -> None:
        """Write `index.json` anew."""
        with self._locked():
            self._write_index()

    def is_indexed(self) -> bool:
        """Tell whether `index.json` lists the names as they are."""
        try:
            with self._locked():
                return self._is_indexed()
        except OSError as error:
            if not is_no_room(error):
                raise
            return self._is_indexed()  # nobody can write here either

    def _is_indexed(self) -> bool:
        path = self._root / "index.json"
        return path.exists() and path.read_bytes() == self._index()

    def _locked(self) -> AbstractContextManager[None]:
        return locked(self._root / "locks" / "index.lock", label="writes index.json")

    def _path(self, name: str) -> Path:
        quoted = quote(name, safe="@+=,:") if name.isprintable() else ""
        if quoted.startswith("."):
            quoted = "%2E" + quoted[1:]  # would be hidden, or be "." or ".."
        if not quoted or len(quoted) > 250:
            raise ArchiveRejected(f"{name!r} cannot be the name of an image")
        return self._root / "refs" / quoted

    def _read(self, path: Path) -> str | None:
        try:
            return str(read_ref(path)["digest"])
        except FileNotFoundError:
            return None

    def _documents(self) -> Iterator[dict[str, Any]]:
        """Yield what sound refs say: a damaged one is told when it is asked for, and by fsck."""
        for path in sorted((self._root / "refs").iterdir()):
            with suppress(FileNotFoundError, LayerCorrupt):
                yield read_ref(path)

    def _write_index(self) -> None:
        write_atomically(self._root / "index.json", self._index(), tmp=self._root / "tmp")

    def _index(self) -> bytes:
        return index_of((ref["name"], _manifest(ref)) for ref in self._documents())


def read_ref(path: Path) -> dict[str, Any]:
    """Return what a ref's file says; raises LayerCorrupt unless that is what we write."""
    name = unquote(path.name)
    content = path.read_bytes()
    try:
        ref = parse_json(content, what=f"ref {name!r}")
    except ArchiveRejected as error:
        raise _damaged(name, error.what) from error
    if not is_digest(ref.get("digest")) or ref.get("name") != name:
        raise _damaged(name, "it names no image")
    if not isinstance(ref.get("mediaType"), str) or type(ref.get("size")) is not int:
        raise _damaged(name, "it describes no manifest")
    return ref


def _manifest(ref: Mapping[str, Any]) -> Descriptor:
    return Descriptor(digest=ref["digest"], size=ref["size"], media_type=ref["mediaType"])


def _damaged(name: str, detail: str) -> LayerCorrupt:
    return LayerCorrupt(f"the name {name!r} of an image is damaged", detail=detail, hint=HEAL)
