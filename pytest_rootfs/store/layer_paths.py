"""Find where an entry of a layer goes: through links, over what is there, below what is missing.

Names are resolved as the kernel would with the unpacked image as its root: what the layer itself
has so far comes first, then what lies below the layer. No path is ever given to the kernel whole;
every step opens one name in an open folder and follows nothing, so a link can only choose another
place inside the root.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from pytest_rootfs.store.entries import PATH_BYTES_MAX, ROOT, parent_of, rejected
from pytest_rootfs.store.file_info import FileInfo, inspect, inspect_open, read_chunks
from pytest_rootfs.store.folders import Folders

LINKS_MAX = 40
"""As many links as Linux follows in one path (path_resolution(7))."""


class View:
    """A merged view of layers, or a folder that is looked at like one; -1 where there is none."""

    def __init__(self, view_fd: int) -> None:
        self._folders = Folders(view_fd) if view_fd >= 0 else None

    def look(self, name: bytes) -> FileInfo | None:
        """Return what is at `name`, no link followed; None if nothing is."""
        if self._folders is None:
            return None
        if name == ROOT:
            return inspect_open(self._folders.open(ROOT))
        try:
            found = inspect(self._folders.open(parent_of(name)), base_of(name))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return None if found is None or found.is_whiteout else found

    def names(self, name: bytes) -> list[bytes]:
        """Return what is listed in the folder `name`, which `look` has found, in byte order."""
        if self._folders is None:
            return []
        return sorted(os.fsencode(each) for each in os.listdir(self._folders.open(name)))

    def content(self, name: bytes, info: FileInfo) -> Iterator[bytes]:
        """Yield the content of the file `name`, which `look` has found."""
        if self._folders is not None:
            yield from read_chunks(self._folders.open(parent_of(name)), base_of(name), info.stat)

    def close(self) -> None:
        """Close what was opened to look; not the view."""
        if self._folders is not None:
            self._folders.close()


class Route:
    """A path that is walked one name at a time, links in it expanded."""

    def __init__(self, path: bytes, *, entry: bytes) -> None:
        self._entry = entry
        self._todo = path.split(b"/")[::-1]
        self._links = 0
        self.at = ROOT

    def next_name(self) -> bytes | None:
        """Return the next name to look at; None when the end is reached, which is `at`."""
        while self._todo:
            part = self._todo.pop()
            if part == b"..":
                self.at = parent_of(self.at)  # the root's parent is the root
            elif part not in (b"", b"."):
                name = joined(self.at, part)
                if len(name) > PATH_BYTES_MAX:
                    raise rejected(self._entry, f"it leads to more than {PATH_BYTES_MAX} bytes")
                return name
        return None

    def follow(self, target: bytes) -> None:
        """Go on with a link's target in the place of its name."""
        self._links += 1
        if self._links > LINKS_MAX:
            raise rejected(self._entry, "it leads through too many levels of symbolic links")
        if target.startswith(b"/"):
            self.at = ROOT
        self._todo += target.split(b"/")[::-1]


def base_of(name: bytes) -> bytes:
    """Return the last part of a name."""
    return name.rpartition(b"/")[2]


def joined(folder: bytes, base: bytes) -> bytes:
    """Return the name of `base` in the folder `folder`."""
    return base if folder == ROOT else folder + b"/" + base
