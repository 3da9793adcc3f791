"""Make the folders of a rw layer: the upper dir and the work dir of a container.

They live in a temporary file system of the container's own, whose size is the disk limit and which
costs nothing to remove. Before Linux 6.6 such a file system has no user extended attributes, and an
overlay on it cannot replace a folder (EIO); there they are made on disk, beside the layers, where
no limit can be set.
"""

from __future__ import annotations

import errno
import os

from pytest_rootfs.kernel import mounts
from pytest_rootfs.kernel.proc_files import start_time
from pytest_rootfs.kernel.trees import remove_tree_at
from pytest_rootfs.runtime import init_layer
from pytest_rootfs.runtime.init_layer import FOLDER_FLAGS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_rootfs.runtime.protocol import Message

PREFIX = ".rw-"
BOUNDLESS_BYTES = 1 << 60
MIN_FILES = 16384


def files_of(size_bytes: int) -> int:
    """Return how many files a tmpfs of a size may hold: empty ones take no room, but memory.

    One for each page, a generous measure: ext4 has one for four.
    """
    return max(size_bytes // 4096, MIN_FILES)


class RwLayer:
    """An upper dir and a work dir in the folder `folder_fd`."""

    __slots__ = ("_copy_fd", "_disk", "_name", "folder_fd", "is_on_disk", "upper_fd")

    def __init__(self, folder_fd: int, *, disk: int = -1, name: str = "") -> None:
        """Make them; on disk as `name` in `disk`."""
        self.folder_fd = folder_fd
        self.upper_fd = -1
        self.is_on_disk = disk >= 0
        self._copy_fd = -1
        self._disk = disk
        self._name = name
        try:
            os.mkdir("upper", 0o755, dir_fd=folder_fd)
            os.mkdir("work", 0o755, dir_fd=folder_fd)
            self.upper_fd = os.open("upper", FOLDER_FLAGS, dir_fd=folder_fd)
        except OSError:
            self._close_after_error()
            raise

    def resemble(self, root: os.stat_result) -> RwLayer:
        """Take the attributes of an image's root, which those of the upper dir hide; return self.

        After an error it is closed.
        """
        try:
            init_layer.copy_attributes(root, self.upper_fd)
        except OSError:
            self._close_after_error()
            raise
        return self

    def resize(self, size_bytes: int | None) -> None:
        """Change the size of the file system; None makes it larger than any machine's memory.

        Raises EBUSY for less than is in use. Taking the limit away instead ("size=0") would be for
        good: what is used is not counted then (shmem_reconfigure in mm/shmem.c).
        """
        size = BOUNDLESS_BYTES if size_bytes is None else size_bytes
        try:
            bounds = {"size": str(size), "nr_inodes": str(files_of(size))}
            mounts.reconfigure(self.folder_fd, bounds)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise OSError(errno.EBUSY, error.strerror, error.filename) from None

    def attach(self, place: str) -> None:
        """Give the file system a place, for kernels whose overlays take no detached one."""
        if self._copy_fd < 0:
            mounts.keep_attached(self.folder_fd, place)
            return
        mounts.keep_attached(self._copy_fd, place)
        os.close(self.folder_fd)
        self.folder_fd, self._copy_fd = self._copy_fd, -1
        os.close(self.upper_fd)
        self.upper_fd = os.open("upper", FOLDER_FLAGS, dir_fd=self.folder_fd)

    def keep_copy(self, place: str) -> None:
        """Keep a copy of what was attached, for the next time.

        A mount that has lost its place gets none again (do_move_mount in fs/namespace.c).
        """
        self._copy_fd = mounts.clone_tree(place, recursive=False)

    def close(self) -> None:
        """Give it up. A temporary file system is gone with its last user; a folder is removed."""
        if self.upper_fd >= 0:
            os.close(self.upper_fd)
        if self._copy_fd >= 0:
            os.close(self._copy_fd)
        os.close(self.folder_fd)
        if self.is_on_disk:
            remove_tree_at(self._disk, self._name.encode())

    def _close_after_error(self) -> None:
        try:
            self.close()
        except OSError:
            pass  # the first error is the one to report


class RwLayers:
    """Makes rw layers for one session."""

    def __init__(self, layers_fd: int) -> None:
        """Find out what this kernel can; `layers_fd` is where folders are made if need be."""
        self._layers_fd = layers_fd
        self._count = 0
        self._spare: tuple[Message, RwLayer] | None = None
        self._prefix = f"{PREFIX}{os.getpid()}-{start_time(os.getpid())}-"
        self.are_on_disk = not _tmpfs_has_attributes()
        if self.are_on_disk:
            self._sweep()

    def make(self, options: Message, root: os.stat_result) -> RwLayer:
        """Return a new rw layer; `options` are those of its temporary file system."""
        if self._spare is None or self._spare[0] != options:
            return self._make(options).resemble(root)
        (_, spare), self._spare = self._spare, None
        return spare.resemble(root)

    def make_spare(self, options: Message) -> None:
        """Make the next one before anybody asks, unless that is done or it would be on disk."""
        if self._spare is not None and self._spare[0] != options:
            self.give_up_spare()
        if self._spare is None and not self.are_on_disk:
            self._spare = options, self._make(options)

    def give_up_spare(self) -> None:
        """Make way. Idempotent."""
        if self._spare is not None:
            (_, spare), self._spare = self._spare, None
            spare.close()

    def _make(self, options: Message) -> RwLayer:
        if not self.are_on_disk:
            return RwLayer(mounts.filesystem("tmpfs", options))
        self._count += 1
        name = f"{self._prefix}{self._count}"
        os.mkdir(name, 0o700, dir_fd=self._layers_fd)
        try:
            folder_fd = os.open(name, FOLDER_FLAGS, dir_fd=self._layers_fd)
        except OSError:
            os.rmdir(name, dir_fd=self._layers_fd)
            raise
        return RwLayer(folder_fd, disk=self._layers_fd, name=name)

    def _sweep(self) -> None:
        """Remove the folders of sessions that were killed."""
        folder_fd = os.open(".", FOLDER_FLAGS, dir_fd=self._layers_fd)
        try:
            names = [name for name in os.listdir(folder_fd) if _is_abandoned(name)]
        finally:
            os.close(folder_fd)
        for name in names:
            try:
                remove_tree_at(self._layers_fd, os.fsencode(name))
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:  # another session is sweeping it as well
                    raise


def _is_abandoned(name: str) -> bool:
    """Tell whether a folder is that of a session which is gone; one with an odd name is not."""
    pid, _, rest = name.removeprefix(PREFIX).partition("-")
    started, dash, _ = rest.partition("-")
    if not name.startswith(PREFIX) or not dash or not pid.isdecimal():
        return False
    return start_time(int(pid)) != started


def _tmpfs_has_attributes() -> bool:
    mount_fd = mounts.filesystem("tmpfs", {"mode": "755"})
    try:
        folder_fd = os.open(".", FOLDER_FLAGS, dir_fd=mount_fd)
        try:
            os.setxattr(folder_fd, "user.overlay.probe", b"y")
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            return False
        finally:
            os.close(folder_fd)
    finally:
        os.close(mount_fd)
    return True
