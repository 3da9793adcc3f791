"""Keep the folders of a layer that is being unpacked in the form that overlayfs mounts.

A deletion is a whiteout (`store/whiteouts.py`), a folder that hides what is below it has
`user.overlay.opaque`. Where entries contradict each other, the tree is what they give when they are
applied one after the other to the image below: a later entry replaces an earlier one, and what
takes the place of something of another kind is not merged with what is below.
"""

from __future__ import annotations

import os
import stat

from pytest_rootfs.kernel.trees import remove_tree_at
from pytest_rootfs.store import attributes
from pytest_rootfs.store.entries import ROOT, Entry, Kind, parent_of, rejected, shown
from pytest_rootfs.store.file_info import FileInfo, inspect
from pytest_rootfs.store.folders import Folders
from pytest_rootfs.store.layer_paths import Route, View, base_of, joined
from pytest_rootfs.store.notes import Notes
from pytest_rootfs.store.whiteouts import make_whiteout


class LayerTree:
    """The folder that a layer is unpacked into, and what of it must wait until the end.

    Without `below` (None) nothing is known of the layers below: then every parent must have an
    entry, and a deletion stays whether or not there is something to delete.
    """

    def __init__(self, target_fd: int, below: View | None, notes: Notes) -> None:
        self.folders = Folders(target_fd)
        self.below = below
        self.uses_below = False
        self._notes = notes
        self._times: dict[bytes, int] = {}
        self._implied: dict[bytes, FileInfo | None] = {}
        self._opaque: set[bytes] = set()
        self._whiteouts: set[bytes] = set()

    def close(self) -> None:
        """Close what was opened."""
        self.folders.close()

    def place(self, name: bytes) -> bytes:
        """Return where an entry goes; its parent is a folder of this layer afterwards."""
        parent = parent_of(name)
        try:
            self.folders.open(parent)
        except (FileNotFoundError, NotADirectoryError):
            return joined(self._made_parent(parent, name), base_of(name))
        return name

    def find(self, name: bytes, *, entry: bytes) -> tuple[bytes, FileInfo | None]:
        """Return where `name` leads (its last part is not followed), and what is below there."""
        route = Route(parent_of(name), entry=entry)
        while (step := route.next_name()) is not None:
            target = self._link_target(step)
            if target is None:
                route.at = step
            else:
                route.follow(target)
        found = joined(route.at, base_of(name))
        return found, self._look_below(found) if self.own(found) is None else None

    def own(self, name: bytes) -> os.stat_result | None:
        """Return what this layer has at `name` so far."""
        try:
            return os.lstat(base_of(name), dir_fd=self.folders.open(parent_of(name)))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def is_whiteout(self, name: bytes, found: os.stat_result) -> bool:
        """Tell whether what this layer has at `name` is a deletion, in either form."""
        if stat.S_ISCHR(found.st_mode):
            return found.st_rdev == 0
        if name not in self._whiteouts or not stat.S_ISREG(found.st_mode):
            return False
        # only we write this attribute: that of an archive is escaped
        info = inspect(self.folders.open(parent_of(name)), base_of(name))
        return info is not None and info.is_whiteout

    def make_folder(self, name: bytes) -> bool:
        """Make a folder unless it is there; tell whether it was. Its parent must be there."""
        try:
            os.mkdir(base_of(name), 0o700, dir_fd=self.folders.open(parent_of(name)))
        except FileExistsError:
            found = self.own(name)
            if found is not None and stat.S_ISDIR(found.st_mode):
                return True
            self.make_room(name)
            os.mkdir(base_of(name), 0o700, dir_fd=self.folders.open(parent_of(name)))
            self.make_opaque(name)
        return False

    def make_room(self, name: bytes) -> None:
        """Remove what an earlier entry of this layer has put at `name`."""
        found = self.own(name)
        if found is None:
            return
        if not self.is_whiteout(name, found):
            self._notes.add(f"{shown(name)} occurs twice; the later entry counts")
        self.folders.forget(name)
        remove_tree_at(self.folders.open(parent_of(name)), base_of(name))

    def make_whiteout(self, name: bytes) -> None:
        """Delete `name` as far as it is below; what this layer has brought itself stays."""
        try:
            make_whiteout(base_of(name), self.folders.open(parent_of(name)))
        except FileExistsError:
            found = self.own(name)
            if found is not None and stat.S_ISDIR(found.st_mode):
                self.make_opaque(name)
            return
        self._whiteouts.add(name)

    def make_opaque(self, name: bytes) -> None:
        """Hide all that is below the folder `name`."""
        os.setxattr(self.folders.open(name), attributes.PRIVATE + b"opaque", b"y")
        self._opaque.add(name)

    def note_time(self, name: bytes, mtime: int) -> None:
        """Record the time that a folder gets when nothing in it changes any more.

        From now on it has an entry of its own, whatever gave it its attributes before.
        """
        self._times[name] = mtime
        self._implied.pop(name, None)

    def implied(self) -> dict[bytes, FileInfo | None]:
        """Return the folders without an entry of their own, and what they stand for below."""
        return self._implied

    def finish(self) -> None:
        """Drop deletions of nothing, then set the folders' times."""
        for name in self._whiteouts:
            self._drop_if_useless(name)
        for name, mtime in self._times.items():
            try:
                os.utime(self.folders.open(name), ns=(mtime * 10**9, mtime * 10**9))
            except (FileNotFoundError, NotADirectoryError):
                continue  # replaced by a later entry

    def _drop_if_useless(self, name: bytes) -> None:
        """Drop a deletion of nothing, which readdir(3) would list where nothing is merged."""
        found = self.own(name)
        if found is None or not self.is_whiteout(name, found):
            return  # replaced by a later entry
        is_useless = self._is_hidden(name)
        if not is_useless and self.below is not None and self.below.look(name) is None:
            is_useless = self.uses_below = True
        if is_useless:
            os.unlink(base_of(name), dir_fd=self.folders.open(parent_of(name)))

    def _made_parent(self, path: bytes, entry: bytes) -> bytes:
        """Return where a parent folder is, after making what is missing on the way."""
        route = Route(path, entry=entry)
        while (name := route.next_name()) is not None:
            target = self._link_target(name)
            if target is None:
                self._enter(name, entry)
                route.at = name
            else:
                route.follow(target)
        return route.at

    def _link_target(self, name: bytes) -> bytes | None:
        """Return the target of the symbolic link `name`, of this layer or below it."""
        found = self.own(name)
        if found is None:
            info = self._look_below(name)
            return info.target if info is not None and info.type == "symlink" else None
        if not stat.S_ISLNK(found.st_mode):
            return None
        return os.readlink(base_of(name), dir_fd=self.folders.open(parent_of(name)))

    def _enter(self, name: bytes, entry: bytes) -> None:
        """Make `name` a folder of this layer, unless it is one."""
        found = self.own(name)
        if found is None and self.below is None:
            raise rejected(
                entry,
                f"its parent folder {shown(name)} has no entry before it, and the layers below "
                "are not known",
            )
        info = self._look_below(name) if found is None else None
        if not self.make_folder(name):
            self._times[name] = 0 if info is None else int(info.stat.st_mtime)
            self._implied[name] = info if info is not None and info.type == "dir" else None

    def _look_below(self, name: bytes) -> FileInfo | None:
        if self.below is None or self._is_hidden(name):
            return None
        self.uses_below = True
        return self.below.look(name)

    def _is_hidden(self, name: bytes) -> bool:
        """Tell whether a folder of this layer hides what is below at `name`."""
        while self._opaque and name != ROOT:
            name = parent_of(name)
            if name in self._opaque:
                return True
        return False


def entry_of(name: bytes, info: FileInfo) -> Entry:
    """Return the entry that would make, at `name`, the file that was found below."""
    kind: Kind | None = None if info.type == "socket" else info.type
    if kind is None:
        raise rejected(name, "it stands for a socket, which no layer can hold")
    return Entry(
        name=name,
        kind=kind,
        mode=info.mode,
        uid=info.stat.st_uid,
        gid=info.stat.st_gid,
        size=info.stat.st_size if kind == "file" else 0,
        mtime=int(info.stat.st_mtime),
        linkname=info.target,
        dev=(os.major(info.stat.st_rdev), os.minor(info.stat.st_rdev)),
        xattrs=info.xattrs,
    )
