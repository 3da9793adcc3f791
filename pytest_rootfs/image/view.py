"""Know what every path of an image is, without unpacking it: for parents, links and conflicts.

Each layer has its rows, in archive order; applied bottom first they give the image's view.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pytest_rootfs.errors import RecipeError
from pytest_rootfs.image.trees import TreeEntry

NodeKind = Literal["file", "dir", "symlink", "other"]
MAX_LINKS = 40
WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"

Row = tuple[str, str, int, int, int, str]
"""path, kind, mode, uid, gid, and a link's target or a file's sha256 ("" when unknown)."""


@dataclass(frozen=True, slots=True)
class Node:
    """Describe what a path is. `extra` is a link's target, or a file's sha256 when known."""

    kind: NodeKind
    mode: int
    uid: int
    gid: int
    extra: bytes = b""


class ImageView:
    """Answer what a path of an image is; the root is b"", no path starts with a slash."""

    def __init__(self, *, is_host: bool = False) -> None:
        self._nodes: dict[bytes, Node | None] = {}
        self._is_host = is_host

    def get(self, path: bytes) -> Node | None:
        """Return what a path is, links in it not followed; `None` when there is nothing."""
        if path in self._nodes:
            return self._nodes[path]
        if not self._is_host or self._is_deleted(path):
            return None
        return _host_node(path)

    def apply(self, rows: Iterable[Row]) -> None:
        """Put a layer on top."""
        for path, kind, mode, uid, gid, extra in rows:
            self._apply(
                os.fsencode(path), kind, Node(_kind(kind), mode, uid, gid, os.fsencode(extra))
            )

    def put(self, path: bytes, node: Node) -> None:
        """Put one file, folder or link on top."""
        before = self.get(path)
        if before is not None and before.kind == "dir" and node.kind != "dir":
            self._remove_below(path)
        self._nodes[path] = node

    def resolve(self, path: bytes) -> bytes:
        """Follow every link in a path inside the image, as the kernel would with it as root.

        What does not exist is left as written. Raises `RecipeError` for a loop.
        """
        todo = path.split(b"/")[::-1]
        done: list[bytes] = []
        links = 0
        while todo:
            part = todo.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":
                del done[-1:]
                continue
            node = self.get(b"/".join((*done, part)))
            if node is None or node.kind != "symlink":
                done.append(part)
                continue
            links += 1
            if links > MAX_LINKS:
                raise RecipeError(f"/{os.fsdecode(path)}: too many levels of symbolic links")
            if node.extra.startswith(b"/"):
                done.clear()
            todo += node.extra.split(b"/")[::-1]
        return b"/".join(done)

    def _apply(self, path: bytes, kind: str, node: Node) -> None:
        folder, _, name = path.rpartition(b"/")
        if name == OPAQUE:
            self._remove_below(folder)
        elif name.startswith(WHITEOUT):
            gone = b"/".join(part for part in (folder, name[len(WHITEOUT) :]) if part)
            self._remove_below(gone)
            self._nodes[gone] = None
        elif kind == "hardlink":
            self._nodes[path] = self.get(node.extra) or Node("file", node.mode, node.uid, node.gid)
        else:
            self.put(path, node)

    def _remove_below(self, path: bytes) -> None:
        prefix = path + b"/" if path else b""
        for below in [name for name in self._nodes if name.startswith(prefix) and name != path]:
            del self._nodes[below]
        if self._is_host:
            self._nodes.update(dict.fromkeys(_host_names(prefix)))

    def _is_deleted(self, path: bytes) -> bool:
        parts = path.split(b"/")
        for count in range(1, len(parts)):
            above = b"/".join(parts[:count])
            if above in self._nodes:
                node = self._nodes[above]
                if node is None or node.kind != "dir":
                    return True
        return False


def row_of(entry: TreeEntry) -> Row:
    """Return the row of an entry that is about to be written."""
    extra = entry.sha256 if entry.kind == "file" else os.fsdecode(entry.linkname)
    return (os.fsdecode(entry.path), entry.kind, entry.mode, *entry.owner, extra)


def _kind(kind: str) -> NodeKind:
    if kind in ("file", "hardlink"):
        return "file"
    if kind == "dir":
        return "dir"
    return "symlink" if kind == "symlink" else "other"


def _host_node(path: bytes) -> Node | None:
    try:
        status = os.lstat(b"/" + path)
    except OSError:
        return None
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISDIR(status.st_mode):
        return Node("dir", mode, status.st_uid, status.st_gid)
    if stat.S_ISLNK(status.st_mode):
        return Node("symlink", mode, status.st_uid, status.st_gid, os.readlink(b"/" + path))
    kind: NodeKind = "file" if stat.S_ISREG(status.st_mode) else "other"
    return Node(kind, mode, status.st_uid, status.st_gid)


def _host_names(prefix: bytes) -> list[bytes]:
    try:
        return [prefix + name for name in os.listdir(b"/" + prefix)]
    except OSError:
        return []
