"""What a container tells of the files that it has changed, live or dead."""

from __future__ import annotations

import errno
import posixpath
from collections.abc import Iterable
from typing import Any

from pytest_rootfs import textdiff
from pytest_rootfs.changeset import Changes
from pytest_rootfs.errors import ArchiveRejected
from pytest_rootfs.runtime.client import StepFailed
from pytest_rootfs.runtime.life import Life
from pytest_rootfs.runtime.path import ContainerPath


def changes(life: Life, ignore: Iterable[str] = ()) -> Changes:
    """Compare the rw layer with the image."""
    life.require_rw_layer()
    home, container = life.home, life.container
    home.touch(container)
    patterns = [ignore] if isinstance(ignore, str) else list(ignore)
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(f"ignore takes globs of paths, not {pattern!r}")
    try:
        found = home.changes(container)
    except (StepFailed, ArchiveRejected):  # files vanish or change: again, standing still
        with life.standing_still():
            found = home.changes(container)
    return found.ignoring(patterns) if patterns else found


def diff(life: Life, path: str) -> str:
    """Return the unified diff of one text file against the image; the path is absolute."""
    life.require_rw_layer()
    if "\0" in path:
        raise ValueError(f"{path!r} holds a null character, which no path has")
    name, before = life.home.read_base(posixpath.normpath(path))
    after = before
    found = changes(life)
    if name in found:
        is_there = found[name].kind != "deleted"
        after = life.home.read_changed(life.container, name) if is_there else None
    if before is None and after is None:
        raise _no_file(life, name, found)
    return textdiff.unified(name, before, after)


def pack(life: Life, clamp_mtime: int | None) -> tuple[Any, int]:
    """Keep the rw layer in the store; return its descriptor and the number of its entries."""
    life.require_rw_layer()
    with life.standing_still():
        return life.home.pack_layer(life.container, clamp_mtime=clamp_mtime)


def _no_file(life: Life, path: str, found: Changes) -> OSError:
    """Return why there is nothing to compare at a path."""
    kind = found[path].type if path in found else ""
    if not kind and life.state == "alive":
        kind = ContainerPath(life, path).kind() or ""
    if kind == "dir":
        return IsADirectoryError(errno.EISDIR, "is a folder: compare its files", path)
    if kind == "file":
        return OSError(errno.EINVAL, "is a file of the start or of a mount", path)
    if kind:
        return OSError(errno.EINVAL, f"is a {kind}: only files can be compared", path)
    return FileNotFoundError(f"neither the image nor the container has the file {path}")
