"""Keep bytes under the digest of their content, in `blobs/sha256/` of an OCI image layout.

A name is complete, verified and never changes. A blob is written to `tmp/`, synced, and linked
to its name; who loses a race drops its copy and succeeds. `durable=False` leaves out the syncing
(milliseconds) for what need not survive a crash of the machine: a damaged blob is noticed when it
is read, and replaced when it is written again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, final

from pytest_rootfs.errors import ArchiveRejected, LayerCorrupt
from pytest_rootfs.store.digests import digest_of, hex_of
from pytest_rootfs.store.locks import claim_file
from pytest_rootfs.store.reading import Digesting

HEAL = "pytest-rootfs fsck --repair, then build or import the image again"
"""What to do about a damaged blob: while it is there, nothing sound takes its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """What the OCI image specification calls a descriptor: a blob, its size and its kind."""

    digest: str
    size: int
    media_type: str

    def as_json(self) -> dict[str, object]:
        """Return the three members as a manifest spells them."""
        return {"digest": self.digest, "mediaType": self.media_type, "size": self.size}


class Blobs:
    """The blobs of one store. Safe between threads and processes; readers take no lock."""

    def __init__(self, folder: Path, tmp: Path, *, hold: Callable[[str], None]) -> None:
        self._folder = folder
        self._tmp = tmp
        self._hold = hold

    def path(self, digest: str) -> Path:
        """Return where a blob is, or would be."""
        return self._folder / hex_of(digest)

    def has(self, digest: str) -> bool:
        """Tell whether the blob is here; from now on it stays as long as the store is open."""
        self._hold(digest)
        return self.path(digest).exists()

    def size(self, digest: str) -> int:
        """Return a blob's size in bytes."""
        with self.open(digest) as file:
            return os.fstat(file.fileno()).st_size

    def open(self, digest: str) -> BinaryIO:
        """Open a blob for reading. The content is not verified; `read_bytes` and unpacking are."""
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            return os.fdopen(os.open(self.path(digest), flags), "rb")
        except FileNotFoundError as error:
            raise LayerCorrupt(
                f"blob {digest} is missing from the store", hint="build or import the image again"
            ) from error

    @contextmanager
    def verified(self, digest: str) -> Iterator[Digesting]:
        """Open a blob for reading whole; raises LayerCorrupt at the end unless it is sound.

        What is read meanwhile is not yet known to be right: use it afterwards.
        """
        with self.open(digest) as file:
            reader = Digesting(file)
            try:
                yield reader
            except (ArchiveRejected, LayerCorrupt):
                # What cannot be read may be damaged, which then is what there is to say.
                self._check(digest, reader.finish())
                raise
            self._check(digest, reader.finish())

    def read_bytes(self, digest: str) -> bytes:
        """Return a whole, verified blob. For manifests and configs; layers are streamed."""
        with self.open(digest) as file:
            content = file.read()
        self._check(digest, digest_of(content))
        return content

    @staticmethod
    def _check(digest: str, found: str) -> None:
        if found != digest:
            raise LayerCorrupt(
                f"blob {digest} is damaged", detail=f"its content has the digest {found}", hint=HEAL
            )

    def put(self, content: bytes, media_type: str, *, durable: bool = True) -> Descriptor:
        """Store `content`; idempotent."""
        with self.new(durable=durable) as writer:
            writer.write(content)
            return writer.commit(media_type)

    def new(self, *, durable: bool = True) -> BlobWriter:
        """Begin a blob of unknown digest; a context manager that aborts unless committed."""
        return BlobWriter(self._tmp, self._publish, durable=durable)

    def _publish(self, written: Path, digest: str) -> None:
        self._hold(digest)
        path = self.path(digest)
        try:
            # link(2) refuses an existing name, where rename(2) would replace it.
            os.link(written, path)
        except FileExistsError:
            if os.lstat(path).st_size != os.lstat(written).st_size:
                os.rename(written, path)  # torn by a crash of the machine


@final
class BlobWriter:
    """A blob that is being written; hashes what passes through `write`."""

    def __init__(self, tmp: Path, publish: Callable[[Path, str], None], *, durable: bool) -> None:
        self._publish = publish
        self._durable = durable
        self._hash = hashlib.sha256()
        self._size = 0
        self._path, self.fd = claim_file(tmp)

    def __enter__(self) -> BlobWriter:
        """Abort on exit, unless committed."""
        return self

    def __exit__(self, *exception: object) -> None:
        self.abort()

    @property
    def digest(self) -> str:
        """The digest of what was written so far."""
        return "sha256:" + self._hash.hexdigest()

    @property
    def size(self) -> int:
        """How much was written so far."""
        return self._size

    def write(self, data: bytes | memoryview) -> int:
        """Append `data` and return its length."""
        view = memoryview(data)
        self._hash.update(view)
        while view:
            view = view[os.write(self.fd, view) :]
        self._size += len(data)
        return len(data)

    def commit(self, media_type: str) -> Descriptor:
        """Publish what was written through `write`."""
        return self.adopt(digest=self.digest, size=self._size, media_type=media_type)

    def adopt(self, *, digest: str, size: int, media_type: str) -> Descriptor:
        """Publish what somebody else, a job, wrote to `fd` and digested while writing."""
        found = os.fstat(self.fd).st_size
        if found != size:
            self.abort()
            raise LayerCorrupt(f"blob {digest} has {found} bytes where {size} were announced")
        os.fchmod(self.fd, 0o444)
        if self._durable:
            os.fdatasync(self.fd)
        self._publish(self._path, digest)
        self.abort()
        return Descriptor(digest=digest, size=size, media_type=media_type)

    def abort(self) -> None:
        """Drop the temporary file; idempotent."""
        if self.fd >= 0:
            self._path.unlink(missing_ok=True)
            os.close(self.fd)
            self.fd = -1
