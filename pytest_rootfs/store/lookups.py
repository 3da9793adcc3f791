"""Find one path in a merged view of layers, resolving links inside it and nowhere else."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any  # results are JSON

from pytest_rootfs.store.file_info import FileInfo, inspect, read_chunks
from pytest_rootfs.store.folders import FLAGS

LINKS_MAX = 40
"""How many symbolic links the kernel follows in one path; path_resolution(7)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a path leads to; `parent_fd` is the open folder that holds `name`."""

    path: bytes
    parent_fd: int
    name: bytes
    info: FileInfo

    def as_json(self) -> dict[str, Any]:
        """Return the file's attributes and its resolved, absolute path."""
        return {"path": os.fsdecode(self.path), **self.info.state.as_json()}

    def content(self) -> Iterator[bytes]:
        """Yield a file's bytes, or one JSON line for every name in a folder; else nothing."""
        if self.info.type == "file":
            yield from read_chunks(self.parent_fd, self.name, self.info.stat)
        elif self.info.type == "dir":
            yield from self._listing()

    def _listing(self) -> Iterator[bytes]:
        folder_fd = os.open(self.name, FLAGS, dir_fd=self.parent_fd)
        try:
            for name in sorted(os.fsencode(name) for name in os.listdir(folder_fd)):
                info = inspect(folder_fd, name)
                if info is not None and not info.is_whiteout:
                    line = {"name": os.fsdecode(name), **info.state.as_json()}
                    yield json.dumps(line).encode() + b"\n"
        finally:
            os.close(folder_fd)


def find(view_fd: int, path: bytes, opened: ExitStack) -> Found | None:
    """Return what `path` leads to in the folder `view_fd` as its root; None if nothing is there.

    The last component is followed too, as `cat` would; a loop of links leads to nothing. Folders
    stay open, as the result needs one of them, until `opened` closes them.
    """
    if view_fd < 0:
        return None
    trail = [_open(b".", view_fd, opened)]
    names: list[bytes] = []
    todo = path.split(b"/")[::-1]
    links = 0
    while todo:
        part = todo.pop()
        if part in (b"", b"."):
            continue
        if part == b"..":
            del names[-1:], trail[max(1, len(trail) - 1) :]
            continue
        info = inspect(trail[-1], part)
        if info is None or info.is_whiteout:
            return None
        if info.type == "dir":
            names.append(part)
            trail.append(_open(part, trail[-1], opened))
        elif info.type != "symlink":
            is_last = all(rest in (b"", b".") for rest in todo)
            return _found([*names, part], trail[-1], part, info) if is_last else None
        else:
            links += 1
            if links > LINKS_MAX:
                return None
            if info.target.startswith(b"/"):
                del names[:], trail[1:]
            todo += info.target.split(b"/")[::-1]
    folder = inspect(trail[-1], b".")
    return None if folder is None else _found(names, trail[-1], b".", folder)


def _found(names: list[bytes], parent_fd: int, name: bytes, info: FileInfo) -> Found:
    return Found(path=b"/" + b"/".join(names), parent_fd=parent_fd, name=name, info=info)


def _open(name: bytes, parent_fd: int, opened: ExitStack) -> int:
    fd = os.open(name, FLAGS, dir_fd=parent_fd)
    opened.callback(os.close, fd)
    return fd
