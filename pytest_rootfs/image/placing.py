"""Place the content of a step into an image: through its links, with all parents, in order.

Parents carry the attributes that they have in the image below: an `/etc` that is only there
because a file was added must not change. Folders that exist keep their attributes. What the image
has already, byte for byte, is left out.
"""

from __future__ import annotations

import os
from dataclasses import replace

from pytest_rootfs.errors import RecipeError
from pytest_rootfs.image.steps import ContentStep, CopyStep, LayoutStep
from pytest_rootfs.image.trees import Tree, TreeEntry
from pytest_rootfs.image.view import ImageView, Node

ROOT_NODE = Node("dir", 0o755, 0, 0)


def place(step: ContentStep, tree: Tree, view: ImageView) -> list[TreeEntry]:
    """Return the entries of the step's layer, parents first, depth first in byte order.

    Empty when the step changes nothing. `view` is the image below, and afterwards the image
    with the step.
    """
    target = _copy_target(step, tree, view) if isinstance(step, CopyStep) else b""
    placement = _Placement(view, sets_folders=isinstance(step, LayoutStep))
    for entry in tree.entries:
        path = b"/".join(part for part in (target, entry.path) if part)
        if entry.kind == "dir":
            placement.put_folder(path, entry)
        else:
            placement.put_other(path, entry)
    return placement.entries()


def _copy_target(step: CopyStep, tree: Tree, view: ImageView) -> bytes:
    """Return where a copy lands, as `COPY` of a Containerfile decides it."""
    target = _relative(step.target)
    is_folder = bool(tree.entries) and tree.entries[0].kind == "dir"
    if is_folder:
        return target
    node = view.get(view.resolve(target))
    goes_inside = step.target.endswith(("/", "/.")) or (node is not None and node.kind == "dir")
    return b"/".join(part for part in (target, tree.basename) if part) if goes_inside else target


def _relative(path: str) -> bytes:
    return b"/".join(part for part in os.fsencode(path).split(b"/") if part not in (b"", b"."))


class _Placement:
    def __init__(self, view: ImageView, *, sets_folders: bool) -> None:
        self._view = view
        self._sets_folders = sets_folders
        self._placed: dict[bytes, TreeEntry] = {}

    def put_folder(self, path: bytes, entry: TreeEntry) -> None:
        path = self._view.resolve(path)
        self._check_parents(path)
        before = self._view.get(path) if path else ROOT_NODE
        if before is not None and before.kind != "dir":
            raise RecipeError(
                f"cannot put a folder at /{os.fsdecode(path)}: it is a {before.kind} in the image"
            )
        if before is None or (self._sets_folders and before != _node(entry)):
            self._put(path, entry)

    def put_other(self, path: bytes, entry: TreeEntry) -> None:
        folder, _, name = path.rpartition(b"/")
        folder = self._view.resolve(folder)
        path = b"/".join(part for part in (folder, name) if part)
        self._check_parents(path)
        before = self._view.get(path)
        if not path or (before is not None and before.kind == "dir"):
            raise RecipeError(
                f"cannot put a {entry.kind} at /{os.fsdecode(path)}: it is a folder in the image"
            )
        if before != _node(entry):
            self._put(path, entry)

    def entries(self) -> list[TreeEntry]:
        """Return what was put, and all parents."""
        if not self._placed:
            return []
        for path in list(self._placed):
            for parent in _parents(path):
                if parent not in self._placed:
                    self._put(parent, self._folder(parent))
        return [self._placed[path] for path in sorted(self._placed, key=_depth_first)]

    def _put(self, path: bytes, entry: TreeEntry) -> None:
        self._placed[path] = replace(entry, path=path)
        self._view.put(path, _node(entry))

    def _check_parents(self, path: bytes) -> None:
        for parent in _parents(path):
            node = self._view.get(parent) if parent else ROOT_NODE
            if node is not None and node.kind != "dir":
                raise RecipeError(
                    f"cannot put anything below /{os.fsdecode(parent)}: "
                    f"it is a {node.kind} in the image, not a folder"
                )

    def _folder(self, path: bytes) -> TreeEntry:
        node = self._view.get(path) or ROOT_NODE
        return TreeEntry(path=path, kind="dir", mode=node.mode, owner=(node.uid, node.gid))


def _parents(path: bytes) -> list[bytes]:
    """Return all folders above a path, the root b"" first."""
    parts = path.split(b"/") if path else []
    return [b"/".join(parts[:count]) for count in range(len(parts))]


def _depth_first(path: bytes) -> list[bytes]:
    return path.split(b"/") if path else []


def _node(entry: TreeEntry) -> Node:
    extra = entry.linkname if entry.kind == "symlink" else entry.sha256.encode()
    return Node(entry.kind, entry.mode, *entry.owner, extra)
