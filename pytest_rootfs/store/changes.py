"""Tell what changed in a writable layer, one record a path; packing is in `packing`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal  # Any: a record as JSON

from pytest_rootfs.store.entries import ROOT
from pytest_rootfs.store.file_info import FileState, FileType, read_chunks
from pytest_rootfs.store.packing import PackResult, pack
from pytest_rootfs.store.uppers import Difference, Sides, compare

__all__ = ["ChangeRecord", "FileState", "PackResult", "diff", "digests", "pack", "record_of"]

ChangeKind = Literal["added", "modified", "deleted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeRecord:
    """One changed path, absolute; undecodable bytes of it are surrogates (os.fsdecode).

    `type` is that of `after`, of `before` when deleted. Of a deleted folder only the folder itself
    is reported, as `docker diff` does.
    """

    path: str
    kind: ChangeKind
    type: FileType
    before: FileState | None
    after: FileState | None

    def as_json(self) -> dict[str, Any]:
        """Return the record as JSON types, members as named here."""
        return {
            "path": self.path,
            "kind": self.kind,
            "type": self.type,
            "before": None if self.before is None else self.before.as_json(),
            "after": None if self.after is None else self.after.as_json(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentDigest:
    """What is in a changed file."""

    path: str
    sha256: str

    def as_json(self) -> dict[str, str]:
        """Return the members as JSON."""
        return {"path": self.path, "sha256": self.sha256}


def diff(sides: Sides) -> Iterator[ChangeRecord]:
    """Yield what changed, in the order of a layer archive, which is not that of paths.

    A folder counts as modified only when its own mode, owner or attributes changed.
    """
    for found in compare(sides):
        if (record := record_of(found)) is not None:
            yield record


def digests(sides: Sides) -> Iterator[ContentDigest]:
    """Yield the digest of every file that was added or modified; raises as `pack` does."""
    for found in compare(sides):
        if found.action == "same" or found.upper is None or found.upper.type != "file":
            continue
        content = hashlib.sha256()
        for chunk in read_chunks(found.parent_fd, found.name, found.upper.stat):
            content.update(chunk)
        yield ContentDigest(path="/" + os.fsdecode(found.path), sha256=content.hexdigest())


def record_of(found: Difference) -> ChangeRecord | None:
    """Return a difference as a record; None for one that is "same"."""
    if found.action == "same":
        return None
    before, after = (None if info is None else info.state for info in (found.base, found.upper))
    shown = after or before
    if shown is None:
        raise AssertionError(f"{found.path!r} differs between nothing and nothing")
    path = "/" if found.path == ROOT else "/" + os.fsdecode(found.path)
    return ChangeRecord(path=path, kind=found.action, type=shown.type, before=before, after=after)
