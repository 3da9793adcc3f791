"""Describe one entry of a layer archive, and the rules that reader and writer share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pytest_rootfs.errors import ArchiveRejected

Kind = Literal["file", "dir", "symlink", "hardlink", "char", "block", "fifo"]

BLOCK_BYTES = 512
ROOT = b"."
PATH_BYTES_MAX = 4095
COMPONENT_BYTES_MAX = 255
ID_MAX = 2**32 - 2
"""The last id: 2^32-1 means "no id" to chown(2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry. `name` is relative, without `./` and final `/`; the root itself is `b"."`.

    `mtime` is in whole seconds and may be negative. `linkname` is a symlink's target as it
    stands, or the name of the earlier entry that a hard link repeats. `dev` is (major, minor).
    """

    name: bytes
    kind: Kind
    mode: int
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime: int = 0
    linkname: bytes = b""
    dev: tuple[int, int] = (0, 0)
    xattrs: Mapping[bytes, bytes] = field(default_factory=dict)


def normalised(name: bytes) -> bytes:
    """Return an archive's spelling of a path as `Entry.name`; refuse what leaves the root.

    `/a//b`, `./a/b/` and `a/./b` are all `a/b`.
    """
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    problem = ""
    if not name:
        problem = "the name is empty"
    elif b"\0" in name:
        problem = "the name contains a NUL byte"
    elif b".." in parts:
        problem = "the name contains `..`"
    elif len(name) > PATH_BYTES_MAX:
        problem = f"the name is longer than {PATH_BYTES_MAX} bytes"
    elif any(len(part) > COMPONENT_BYTES_MAX for part in parts):
        problem = f"a part of the name is longer than {COMPONENT_BYTES_MAX} bytes"
    if problem:
        raise rejected(name, problem)
    return b"/".join(parts) or ROOT


def parent_of(name: bytes) -> bytes:
    """Return the name of the folder that holds `name`."""
    return name.rpartition(b"/")[0] or ROOT


def rejected(name: bytes, rule: str) -> ArchiveRejected:
    """Return the refusal of the entry `name`, for the sentence `rule`."""
    return ArchiveRejected(f"archive entry {shown(name)} is refused: {rule}")


def shown(name: bytes) -> str:
    """Write a file name for a person: unprintable and invalid bytes escaped, 200 at most."""
    text = name[:200].decode("utf-8", "backslashreplace")
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return f"`{text}{'…' if len(name) > 200 else ''}`"
