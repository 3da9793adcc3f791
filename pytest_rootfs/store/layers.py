"""Unpack one layer archive into an empty folder, in the form that overlayfs mounts.

OCI whiteouts become overlayfs' own (`store/whiteouts.py`, `user.overlay.opaque`). Only
self-contained layers are accepted: an entry's parent is an earlier folder entry of the same
archive, and a hard link repeats an earlier entry; whatever else would need the layers below, or
would lead through a link, is refused. Every path is walked folder by folder without following
links, so nothing outside the target can be reached even without the pivot that comes first.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from dataclasses import dataclass

from pytest_rootfs.errors import ArchiveRejected, RootfsError
from pytest_rootfs.store import attributes
from pytest_rootfs.store.entries import ROOT, Entry, parent_of, rejected, shown
from pytest_rootfs.store.folders import Folders
from pytest_rootfs.store.notes import Notes
from pytest_rootfs.store.tar_reader import Reader, Source, read_entries
from pytest_rootfs.store.whiteouts import make_whiteout

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
ENTRIES_MAX = 5_000_000

_ZEROS = bytes(1 << 18)
_NODES = {"char": stat.S_IFCHR, "block": stat.S_IFBLK, "fifo": stat.S_IFIFO}


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpackResult:
    """What an unpacked archive was: `degraded` lists, in words, what this host cannot keep."""

    diff_id: str
    size: int
    entries: int
    has_root: bool
    degraded: tuple[str, ...]


def unpack(tar: Source, target_fd: int, *, squash_ids: bool = False) -> UnpackResult:
    """Unpack the uncompressed archive `tar` into the empty folder `target_fd`.

    `squash_ids` gives everything to the ids that own the process, for a map with a single id.
    Raises ArchiveRejected at the first rule that is broken; what was written so far stays, for
    the caller to discard. Memory does not grow with the size of files.
    """
    source = _Hashing(tar)
    layer = _Unpacking(target_fd, squash_ids=squash_ids)
    try:
        for entry, data in read_entries(source):
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
        diff_id="sha256:" + source.digest.hexdigest(),
        size=source.size,
        entries=layer.entries,
        has_root=layer.has_root,
        degraded=layer.notes.shown(),
    )


class _Hashing:
    """A source that digests what is read from it."""

    def __init__(self, file: Source) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.size = 0

    def read(self, size: int, /) -> bytes:
        data = self._file.read(size)
        self.digest.update(data)
        self.size += len(data)
        return data


class _Unpacking:
    """One layer in the making."""

    def __init__(self, target_fd: int, *, squash_ids: bool) -> None:
        self._folders = Folders(target_fd)
        self._squash_ids = squash_ids
        self._times: dict[bytes, int] = {}
        self._opaque: set[bytes] = set()
        self._whiteouts: set[bytes] = set()
        self._skipped: set[bytes] = set()
        self._noted: set[bytes] = set()
        self.notes = Notes()
        self.entries = 0
        self.has_root = False

    def add(self, entry: Entry, data: Reader) -> None:
        self.entries += 1
        if self.entries > ENTRIES_MAX:
            raise ArchiveRejected(f"the archive has more than {ENTRIES_MAX} entries")
        if entry.name == ROOT:
            self._add_root(entry)
            return
        parent_fd = self._parent(entry)
        base = entry.name.rpartition(b"/")[2]
        if base.startswith(WHITEOUT):
            self._add_whiteout(entry, parent_fd, base)
        elif entry.kind == "dir":
            self._add_folder(entry, parent_fd, base)
        else:
            self._replace_whiteout(entry, parent_fd, base)
            self._add_other(entry, parent_fd, base, data)

    def finish(self) -> None:
        """Drop whiteouts that an opaque folder makes useless, then set the folders' times."""
        for name in self._whiteouts:
            if self._is_below_opaque(name):
                # Inside an opaque folder overlayfs lists a whiteout as a name that is not there.
                os.unlink(name.rpartition(b"/")[2], dir_fd=self._folders.open(parent_of(name)))
        for name, mtime in self._times.items():
            os.utime(self._folders.open(name), ns=(mtime * 10**9, mtime * 10**9))

    def close(self) -> None:
        self._folders.close()

    def _parent(self, entry: Entry) -> int:
        parent = parent_of(entry.name)
        try:
            return self._folders.open(parent)
        except FileNotFoundError as error:
            raise rejected(
                entry.name,
                f"its parent folder {shown(parent)} has no entry before it; only layers that "
                "hold all parents of their entries can be unpacked",
            ) from error
        except NotADirectoryError as error:
            raise rejected(entry.name, f"its parent {shown(parent)} is not a folder") from error

    def _add_root(self, entry: Entry) -> None:
        if self.has_root:
            raise rejected(entry.name, "it occurs twice")
        self.has_root = True
        self._set_attributes(entry, self._folders.open(ROOT))
        self._times[ROOT] = entry.mtime

    def _add_folder(self, entry: Entry, parent_fd: int, base: bytes) -> None:
        is_replacing = self._replace_whiteout(entry, parent_fd, base)
        try:
            os.mkdir(base, 0o700, dir_fd=parent_fd)
        except FileExistsError as error:
            raise rejected(entry.name, "it occurs twice") from error
        folder_fd = self._folders.open(entry.name)
        self._set_attributes(entry, folder_fd)
        self._times[entry.name] = entry.mtime
        if is_replacing:
            self._make_opaque(entry.name)

    def _add_whiteout(self, entry: Entry, parent_fd: int, base: bytes) -> None:
        if entry.kind != "file" or entry.size:
            raise rejected(entry.name, "a whiteout must be an empty regular file")
        if base == OPAQUE:
            self._make_opaque(parent_of(entry.name))
            return
        hidden = base[len(WHITEOUT) :]
        if hidden in (b"", b".", b"..") or hidden.startswith(WHITEOUT):
            raise rejected(entry.name, "it hides no proper name")
        name = entry.name[: -len(base)] + hidden
        try:
            make_whiteout(hidden, parent_fd)
        except FileExistsError:
            # A whiteout never hides what its own layer brings, only what is below.
            if name in self._whiteouts:
                raise rejected(entry.name, "it occurs twice") from None
            if name in self._times:
                self._make_opaque(name)
            return
        self._whiteouts.add(name)

    def _replace_whiteout(self, entry: Entry, parent_fd: int, base: bytes) -> bool:
        """Let an entry take the place of an earlier whiteout of its own layer."""
        if entry.name not in self._whiteouts:
            return False
        os.unlink(base, dir_fd=parent_fd)
        self._whiteouts.remove(entry.name)
        return True

    def _make_opaque(self, name: bytes) -> None:
        if name not in self._opaque:
            os.setxattr(self._folders.open(name), attributes.PRIVATE + b"opaque", b"y")
            self._opaque.add(name)

    def _is_below_opaque(self, name: bytes) -> bool:
        while name != ROOT:
            name = parent_of(name)
            if name in self._opaque:
                return True
        return False

    def _add_other(self, entry: Entry, parent_fd: int, base: bytes, data: Reader) -> None:
        try:
            if entry.kind == "file":
                self._add_file(entry, parent_fd, base, data)
            elif entry.kind == "hardlink":
                self._add_hardlink(entry, parent_fd, base)
            elif entry.kind == "symlink":
                os.symlink(entry.linkname, base, dir_fd=parent_fd)
                self._set_by_name(entry, parent_fd, base)
            else:
                self._add_node(entry, parent_fd, base)
        except FileExistsError as error:
            raise rejected(entry.name, "it occurs twice") from error

    def _add_file(self, entry: Entry, parent_fd: int, base: bytes, data: Reader) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(base, flags, 0o600, dir_fd=parent_fd)
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
            self._set_attributes(entry, fd)
            os.utime(fd, ns=(entry.mtime * 10**9, entry.mtime * 10**9))
        finally:
            os.close(fd)

    def _add_hardlink(self, entry: Entry, parent_fd: int, base: bytes) -> None:
        if entry.linkname in self._skipped:
            self._skip(entry.name, "is a link to a device node that cannot be made here")
            return
        target_parent = parent_of(entry.linkname)
        target = entry.linkname.rpartition(b"/")[2]
        if entry.linkname in self._whiteouts or entry.linkname in self._times:
            raise rejected(entry.name, f"it is a hard link to {shown(entry.linkname)}")
        try:
            target_fd = os.dup(self._folders.open(target_parent))
            try:
                # Opening the target's folder may have closed the one that `parent_fd` was.
                parent_fd = self._folders.open(parent_of(entry.name))
                os.link(
                    target, base, src_dir_fd=target_fd, dst_dir_fd=parent_fd, follow_symlinks=False
                )
            finally:
                os.close(target_fd)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise rejected(
                entry.name, f"it is a hard link to {shown(entry.linkname)}, no earlier entry"
            ) from error

    def _add_node(self, entry: Entry, parent_fd: int, base: bytes) -> None:
        if entry.kind == "char" and entry.dev == (0, 0):
            raise rejected(entry.name, "overlayfs would read the device 0:0 as a deletion")
        mode = _NODES[entry.kind] | 0o600
        try:
            os.mknod(base, mode, os.makedev(*entry.dev), dir_fd=parent_fd)
        except PermissionError:
            # No user namespace may make device nodes; an empty file in its place would be a lie.
            self._skip(entry.name, "is a device node, which cannot be made here")
            return
        self._set_by_name(entry, parent_fd, base)

    def _set_by_name(self, entry: Entry, parent_fd: int, base: bytes) -> None:
        """Set owner, mode and times of what cannot be opened; it was just made, with this name."""
        self._chown(entry, base, parent_fd)
        if entry.kind != "symlink":
            os.chmod(base, entry.mode, dir_fd=parent_fd)
        for name in entry.xattrs:
            self._note(name, entry, "not possible on this kind of file")
        times = (entry.mtime * 10**9, entry.mtime * 10**9)
        os.utime(base, ns=times, dir_fd=parent_fd, follow_symlinks=False)

    def _set_attributes(self, entry: Entry, fd: int) -> None:
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

    def _skip(self, name: bytes, why: str) -> None:
        self._skipped.add(name)
        self.notes.add(f"{shown(name)} {why}")

    def _note(self, attribute: bytes, entry: Entry, why: str) -> None:
        """Record an attribute that is not kept, once a layer."""
        if attribute not in self._noted:
            self._noted.add(attribute)
            text = f"{shown(entry.name)}: attribute {shown(attribute)} not kept: {why}"
            self.notes.add(text)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
