"""Unpack one layer archive into an empty folder, in the form that overlayfs mounts.

A layer that holds all parents of its entries, and links to nothing outside, unpacks to the same
tree whatever is below it. Any other one is applied to the view of the layers below: a missing
parent is copied from there, and so is the target of a hard link. Where a path leads through a
link, the link is followed inside the root, as umoci does.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, replace

from pytest_rootfs.errors import ArchiveRejected, RootfsError
from pytest_rootfs.store import attributes
from pytest_rootfs.store.entries import ROOT, Entry, parent_of, rejected, shown
from pytest_rootfs.store.file_info import FileInfo
from pytest_rootfs.store.layer_files import FileMaker
from pytest_rootfs.store.layer_paths import View, base_of
from pytest_rootfs.store.layer_trees import LayerTree, entry_of
from pytest_rootfs.store.notes import Notes
from pytest_rootfs.store.reading import Digesting, Readable
from pytest_rootfs.store.tar_reader import Reader, read_entries

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpackLimits:
    """Where unpacking gives up. `bytes` counts the files' sizes, holes included."""

    entries: int = 5_000_000
    bytes: int = 1 << 38


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpackResult:
    """What an unpacked archive was, with its `size` in bytes.

    `degraded` lists, in words, what this host cannot keep and what was read with lenience.
    `uses_below`: the tree fits only what it was unpacked over, so its name is the chain's.
    """

    diff_id: str
    size: int
    entries: int
    has_root: bool
    uses_below: bool
    degraded: tuple[str, ...]


def unpack(
    tar: Readable,
    target_fd: int,
    *,
    squash_ids: bool = False,
    below_fd: int | None = None,
    limits: UnpackLimits | None = None,
) -> UnpackResult:
    """Unpack the uncompressed archive `tar` into the empty folder `target_fd`.

    `squash_ids` gives everything to the ids that own the process, for a map with a single id.
    `below_fd` is the merged view of the layers below, -1 when there is none; without it (None) a
    layer that needs them is refused. Raises ArchiveRejected at the first rule that is broken; what
    was written so far stays, for the caller to discard. Memory does not grow with the size of
    files.
    """
    source = Digesting(tar)
    layer = _Unpacking(target_fd, below_fd, limits or UnpackLimits(), squash_ids=squash_ids)
    try:
        for entry, data in read_entries(source, layer.notes):
            layer.add(entry, data)
        layer.finish()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RootfsError(
            f"no room to unpack the layer: {error.strerror}",
            hint="make room on the store's disk, or run `pytest-rootfs gc --all`",
        ) from error
    finally:
        layer.close()
    return UnpackResult(
        diff_id=source.digest,
        size=source.size,
        entries=layer.entries,
        has_root=layer.has_root,
        uses_below=layer.tree.uses_below,
        degraded=layer.notes.shown(),
    )


class _Unpacking:
    """One layer in the making."""

    def __init__(
        self, target_fd: int, below_fd: int | None, limits: UnpackLimits, *, squash_ids: bool
    ) -> None:
        self.notes = Notes()
        self._limits = limits
        self._below = None if below_fd is None else View(below_fd)
        self.tree = LayerTree(target_fd, self._below, self.notes)
        self._files = FileMaker(self.notes, squash_ids=squash_ids)
        self._skipped: set[bytes] = set()
        self.entries = 0
        self._bytes = 0
        self.has_root = False

    def add(self, entry: Entry, data: Reader) -> None:
        try:
            self._count(entry)
            self._add(entry, data)
        except ArchiveRejected as error:
            raise ArchiveRejected(
                f"{error.what} (entry {self.entries})", detail=error.detail, hint=error.hint
            ) from error

    def finish(self) -> None:
        """Give the folders what must wait until everything is in them."""
        for name, info in self.tree.implied().items():
            self._imply(name, info)
        if not self.has_root and self._below is not None:
            self.tree.uses_below = True
            info = self._below.look(ROOT)
            self._imply(ROOT, info)
            self.tree.note_time(ROOT, 0 if info is None else int(info.stat.st_mtime))
        self.tree.finish()

    def close(self) -> None:
        self.tree.close()
        if self._below is not None:
            self._below.close()

    def _count(self, entry: Entry) -> None:
        self.entries += 1
        self._bytes += entry.size
        if self.entries > self._limits.entries:
            raise ArchiveRejected(f"the archive has more than {self._limits.entries} entries")
        if self._bytes > self._limits.bytes:
            raise ArchiveRejected(f"the archive unpacks to more than {self._limits.bytes} bytes")

    def _add(self, entry: Entry, data: Reader) -> None:
        if entry.name == ROOT:
            if self.has_root:
                self.notes.add("the root occurs twice; the later entry counts")
            self.has_root = True
            self._set_folder(entry, is_old=True)
            return
        name = self.tree.place(entry.name)
        if name != entry.name:
            entry = replace(entry, name=name)
        base = base_of(name)
        if base.startswith(WHITEOUT):
            self._add_whiteout(entry, base)
        elif entry.kind == "dir":
            self._set_folder(entry, is_old=self.tree.make_folder(name))
        elif entry.kind == "hardlink":
            self._add_hardlink(entry)
        else:
            self._add_file(entry, data)

    def _set_folder(self, entry: Entry, *, is_old: bool) -> None:
        folder_fd = self.tree.folders.open(entry.name)
        if is_old:
            attributes.drop_kept(folder_fd)
        self._files.set_attributes(entry, folder_fd)
        self.tree.note_time(entry.name, entry.mtime)

    def _imply(self, name: bytes, info: FileInfo | None) -> None:
        """Give a folder without an entry what it has below, or what a new one has."""
        entry = Entry(name=name, kind="dir", mode=0o755)
        if info is not None:
            entry = entry_of(name, info)
        try:
            self._files.set_attributes(entry, self.tree.folders.open(name))
        except (FileNotFoundError, NotADirectoryError):
            return  # replaced by a later entry

    def _add_whiteout(self, entry: Entry, base: bytes) -> None:
        if entry.kind != "file" or entry.size:
            raise rejected(entry.name, "a whiteout must be an empty regular file")
        if base == OPAQUE:
            self.tree.make_opaque(parent_of(entry.name))
            return
        hidden = base[len(WHITEOUT) :]
        if hidden in (b"", b".", b"..") or hidden.startswith(WHITEOUT):
            raise rejected(entry.name, "it hides no proper name")
        self.tree.make_whiteout(entry.name[: -len(base)] + hidden)

    def _add_file(self, entry: Entry, data: Iterable[bytes]) -> None:
        base, parent = base_of(entry.name), parent_of(entry.name)
        try:
            is_made = self._files.make(entry, self.tree.folders.open(parent), base, data)
        except FileExistsError:
            self.tree.make_room(entry.name)
            is_made = self._files.make(entry, self.tree.folders.open(parent), base, data)
        if is_made:
            self._skipped.discard(entry.name)
        else:
            self._skipped.add(entry.name)

    def _add_hardlink(self, entry: Entry) -> None:
        target, info = self.tree.find(entry.linkname, entry=entry.name)
        if target in self._skipped:
            self._skipped.add(entry.name)
            self.notes.add(
                f"{shown(entry.name)} is a link to a device node that cannot be made here"
            )
            return
        if target == entry.name:
            raise rejected(entry.name, "it is a hard link to itself")
        if info is not None and info.type != "dir":
            self._copy_up(target, info)
        found = self.tree.own(target)
        if found is None or self.tree.is_whiteout(target, found):
            raise rejected(
                entry.name, f"it is a hard link to {shown(entry.linkname)}, no earlier entry"
            )
        if stat.S_ISDIR(found.st_mode):
            raise rejected(entry.name, f"it is a hard link to {shown(target)}, a folder")
        self._link(entry.name, target)

    def _copy_up(self, name: bytes, info: FileInfo) -> None:
        """Bring a file from below into this layer, where a hard link can repeat it."""
        self.tree.place(name)
        if self._below is not None:
            self._add_file(entry_of(name, info), self._below.content(name, info))

    def _link(self, name: bytes, target: bytes) -> None:
        if target.startswith(name + b"/"):
            raise rejected(name, f"it is a hard link to {shown(target)}, which it replaces")
        if self.tree.own(name) is not None:
            self.tree.make_room(name)
        target_fd = os.dup(self.tree.folders.open(parent_of(target)))
        try:
            os.link(
                base_of(target),
                base_of(name),
                src_dir_fd=target_fd,
                dst_dir_fd=self.tree.folders.open(parent_of(name)),
                follow_symlinks=False,
            )
        finally:
            os.close(target_fd)
