"""Write a tar archive of files that differ in name and content only, with their folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import BinaryIO, final

from pytest_rootfs.settings import SOURCE_DATE_EPOCH
from pytest_rootfs.store.entries import Entry, Kind
from pytest_rootfs.store.tar_writer import TarWriter


@final
class Archive:
    """An archive in the making; `close` writes its end, and leaves the file open."""

    def __init__(self, file: BinaryIO) -> None:
        self._tar = TarWriter(file.write)
        self._folders = {"."}
        self.close = self._tar.close

    def add(self, name: str, content: bytes) -> None:
        """Append a file whose content is at hand."""
        self.stream(name, len(content), iter([content]))

    def stream(self, name: str, size: int, content: Iterator[bytes]) -> None:
        """Append a file of exactly `size` bytes, and the folders that it needs before it."""
        for parent in reversed(PurePosixPath(name).parents):
            folder = str(parent)
            if folder not in self._folders:
                self._folders.add(folder)
                self._tar.add(_entry(folder, "dir", mode=0o755))
        self._tar.add(_entry(name, "file", mode=0o644, size=size), content)


def _entry(name: str, kind: Kind, *, mode: int, size: int = 0) -> Entry:
    encoded = os.fsencode(name)
    return Entry(name=encoded, kind=kind, mode=mode, size=size, mtime=SOURCE_DATE_EPOCH)
