"""Compare a writable layer with its image once, for the list of changes and for the archive.

What cannot be packed is still compared: the list says what is lost.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TextIO

from pytest_rootfs.errors import ArchiveRejected
from pytest_rootfs.store.changes import record_of
from pytest_rootfs.store.packing import Packing, PackResult
from pytest_rootfs.store.uppers import Difference, Sides, compare

BUFFER_BYTES = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What became of the archive: written, `refused` for a reason, or not asked for."""

    packed: PackResult | None
    refused: str


def keep(
    sides: Sides, changes: TextIO, tar_fd: int | None, *, max_bytes: int | None = None
) -> Kept:
    """Write every change as a line to `changes`, and the layer to `tar_fd` if there is one.

    A line is a ChangeRecord as JSON with `changed_ns` (see `Difference`). Raises only what makes
    the comparison itself impossible.
    """
    archive = None if tar_fd is None else _Archive(tar_fd, max_bytes)
    try:
        for found in compare(sides):
            if (record := record_of(found)) is not None:
                line = {**record.as_json(), "changed_ns": found.changed_ns}
                changes.write(json.dumps(line) + "\n")
            if archive is not None:
                archive.add(found)
        return Kept(packed=None, refused="") if archive is None else archive.finish()
    finally:
        if archive is not None:
            archive.close()


class _Archive:
    """The archive, given up at the first thing that it cannot hold or has no room for."""

    def __init__(self, tar_fd: int, max_bytes: int | None) -> None:
        self._out = os.fdopen(tar_fd, "wb", buffering=BUFFER_BYTES, closefd=False)
        self._packing = Packing(self._out, None, max_bytes)
        self._refused = ""

    def add(self, found: Difference) -> None:
        if self._refused:
            return
        try:
            self._packing.add(found)
        except (ArchiveRejected, OSError) as error:
            self._refused = _reason(error)

    def finish(self) -> Kept:
        if not self._refused:
            try:
                return Kept(packed=self._packing.finish(), refused="")
            except (ArchiveRejected, OSError) as error:
                self._refused = _reason(error)
        return Kept(packed=None, refused=self._refused)

    def close(self) -> None:
        self._packing.close()
        with suppress(OSError):  # a full disk, which `refused` has told
            self._out.close()


def _reason(error: ArchiveRejected | OSError) -> str:
    if isinstance(error, ArchiveRejected):
        return "; ".join(filter(None, (error.what, error.detail)))
    return error.strerror or str(error)
