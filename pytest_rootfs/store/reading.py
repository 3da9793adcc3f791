"""Read a stream of bytes, and digest it meanwhile."""

from __future__ import annotations

import hashlib
from typing import Protocol, final

CHUNK_BYTES = 1 << 18


class Readable(Protocol):
    """What bytes are read from: a binary file, or anything that reads like one."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes; none at the end."""


@final
class Digesting:
    """A stream that digests what is read from it."""

    def __init__(self, file: Readable) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def digest(self) -> str:
        """The digest of what was read so far."""
        return "sha256:" + self._hash.hexdigest()

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes; none at the end."""
        data = self._file.read(size)
        self._hash.update(data)
        self.size += len(data)
        return data

    def finish(self) -> str:
        """Read to the end and return the digest."""
        while self.read(CHUNK_BYTES):
            pass
        return self.digest
