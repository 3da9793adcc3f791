"""Make the files of a layer and give them owner, mode, attributes and time."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable

from pytest_rootfs.store import attributes
from pytest_rootfs.store.entries import Entry, rejected, shown
from pytest_rootfs.store.notes import Notes

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NODES = {"char": stat.S_IFCHR, "block": stat.S_IFBLK, "fifo": stat.S_IFIFO}
_ZEROS = bytes(1 << 18)


class FileMaker:
    """Makes what is neither a folder nor a hard link; raises FileExistsError where something is.

    `squash_ids` gives everything to the ids that own the process, for a map with a single id.
    """

    def __init__(self, notes: Notes, *, squash_ids: bool) -> None:
        self._notes = notes
        self._squash_ids = squash_ids
        self._noted: set[bytes] = set()

    def make(self, entry: Entry, parent_fd: int, base: bytes, data: Iterable[bytes]) -> bool:
        """Make the entry's file in an open folder; False when it cannot exist here."""
        if entry.kind == "file":
            self._make_file(entry, parent_fd, base, data)
        elif entry.kind == "symlink":
            os.symlink(entry.linkname, base, dir_fd=parent_fd)
            self._set_by_name(entry, parent_fd, base)
        else:
            return self._make_node(entry, parent_fd, base)
        return True

    def set_attributes(self, entry: Entry, fd: int) -> None:
        """Set owner, mode and attributes, in this order: chown(2) clears the other two."""
        self._chown(entry, fd)
        os.fchmod(fd, entry.mode)
        for name, value in entry.xattrs.items():
            if not attributes.is_kept(name):
                self._note(name, entry, "belongs to one machine")
                continue
            try:
                os.setxattr(fd, attributes.stored_name(name), value)
            except OSError as error:
                self._note(name, entry, str(error.strerror))

    def _make_file(self, entry: Entry, parent_fd: int, base: bytes, data: Iterable[bytes]) -> None:
        fd = os.open(base, _FLAGS, 0o600, dir_fd=parent_fd)
        try:
            is_sparse = False
            for chunk in data:
                is_sparse = chunk == _ZEROS[: len(chunk)]
                if is_sparse:
                    os.lseek(fd, len(chunk), os.SEEK_CUR)
                else:
                    _write_all(fd, chunk)
            if is_sparse:
                os.ftruncate(fd, entry.size)
            self.set_attributes(entry, fd)
            os.utime(fd, ns=(entry.mtime * 10**9, entry.mtime * 10**9))
        finally:
            os.close(fd)

    def _make_node(self, entry: Entry, parent_fd: int, base: bytes) -> bool:
        if entry.kind == "char" and entry.dev == (0, 0):
            raise rejected(entry.name, "overlayfs would read the device 0:0 as a deletion")
        try:
            os.mknod(base, _NODES[entry.kind] | 0o600, os.makedev(*entry.dev), dir_fd=parent_fd)
        except PermissionError:
            # No user namespace may make device nodes; an empty file in its place would be a lie.
            self._notes.add(f"{shown(entry.name)} is a device node, which cannot be made here")
            return False
        self._set_by_name(entry, parent_fd, base)
        return True

    def _set_by_name(self, entry: Entry, parent_fd: int, base: bytes) -> None:
        """Set owner, mode and times of what cannot be opened; it was just made, with this name."""
        self._chown(entry, base, parent_fd)
        if entry.kind != "symlink":
            os.chmod(base, entry.mode, dir_fd=parent_fd)
        for name in entry.xattrs:
            self._note(name, entry, "not possible on this kind of file")
        times = (entry.mtime * 10**9, entry.mtime * 10**9)
        os.utime(base, ns=times, dir_fd=parent_fd, follow_symlinks=False)

    def _chown(self, entry: Entry, file: int | bytes, parent_fd: int | None = None) -> None:
        if self._squash_ids:
            return
        try:
            if isinstance(file, int):
                os.fchown(file, entry.uid, entry.gid)
            else:
                os.chown(file, entry.uid, entry.gid, dir_fd=parent_fd, follow_symlinks=False)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            owner = f"{entry.uid}:{entry.gid}"
            raise rejected(
                entry.name, f"its owner {owner} is not among the ids that containers have here"
            ) from error

    def _note(self, attribute: bytes, entry: Entry, why: str) -> None:
        """Record an attribute that is not kept, once a layer."""
        if attribute not in self._noted:
            self._noted.add(attribute)
            text = f"{shown(entry.name)}: attribute {shown(attribute)} not kept: {why}"
            self._notes.add(text)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
