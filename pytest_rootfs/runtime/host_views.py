"""Show the host's root directory to an ordinary user's container, copy-on-write.

The kernel lets nobody see what lies below a mount that came from a more privileged namespace, so
`/` as a whole cannot be a lower dir (EINVAL, has_locked_children in fs/namespace.c). Its folders
can, one overlay each; a folder with mounts below it is made anew and its entries shown one by one.
All uppers are folders of one upper dir, which thus looks as that of a single overlay.

What stays impossible: a file of an owner that the user namespace does not map cannot be copied up
(EOVERFLOW), so it can be read and hidden by a deletion, not changed. Folders in which programs are
installed are made in the upper dir beforehand, so that new files can be.
"""

from __future__ import annotations

import os
import stat

from pytest_rootfs.kernel import mounts
from pytest_rootfs.runtime.init_layer import FOLDER_FLAGS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

OWN = ("proc", "sys", "dev")
"""What a container has of its own."""

ROOT = "root"
"""The name, in the tree of `mount_fd`, of the folder that stands for `/`."""

MAX_DEPTH = 4
PREMADE = (
    *("usr/bin", "usr/lib", "usr/sbin", "usr/share", "usr/local", "usr/local/bin", "usr/local/etc"),
    *("usr/local/lib", "usr/local/sbin", "usr/local/share"),
    *("var/cache", "var/lib", "var/log", "var/spool", "var/tmp"),
)


class HostView:
    """A folder that stands for `/`, and the trees to be attached below it, in this order."""

    def __init__(
        self, layer_fds: Sequence[int], upper_fd: int, rw_fd: int, *, place: str = ""
    ) -> None:
        """Make the trees; layers topmost first; an upper dir of -1 makes a read-only view.

        With a `place`, the folder's own tree is attached there, for kernels whose overlays take
        no detached one; whoever gave it takes it away again.
        """
        self.trees: list[tuple[int, str]] = []
        self._layer_fds = layer_fds
        self._upper_fd = upper_fd
        self._rw_fd = rw_fd
        self.mount_fd = mounts.filesystem("tmpfs", {"mode": "755"})
        self.folder_fd = -1
        try:
            for name in (ROOT, "empty"):
                os.mkdir(name, 0o755, dir_fd=self.mount_fd)
            self.folder_fd = os.open(ROOT, FOLDER_FLAGS, dir_fd=self.mount_fd)
            if place:
                mounts.keep_attached(self.mount_fd, place)
        except OSError:
            self.close()
            raise
        try:
            self._show_entries("", 1)
        except OSError:
            if place:
                mounts.detach_last(place)
            self.close()
            raise

    def attach_below(self, place: str) -> None:
        """Attach every tree below the folder, which is attached at `place`."""
        for fd, path in self.trees:
            mounts.keep_attached(fd, f"{place}/{ROOT}/{path}")

    def close(self) -> None:
        """Close every descriptor; what was attached stays."""
        for fd, _ in self.trees:
            os.close(fd)
        if self.folder_fd >= 0:
            os.close(self.folder_fd)
        os.close(self.mount_fd)

    def _show_entries(self, folder: str, depth: int) -> None:
        for name in sorted(os.listdir(f"/{folder}")):
            path = f"{folder}/{name}" if folder else name
            if path in OWN:
                continue
            try:
                status = os.lstat(f"/{path}")
            except OSError:
                continue  # vanished, or behind a mount that is not for us
            if stat.S_ISLNK(status.st_mode):
                os.symlink(os.readlink(f"/{path}"), path, dir_fd=self.folder_fd)
            elif stat.S_ISDIR(status.st_mode):
                self._show_folder(path, status, depth)
            elif stat.S_ISREG(status.st_mode):
                self._show_file(path)

    def _show_folder(self, path: str, status: os.stat_result, depth: int) -> None:
        mode = stat.S_IMODE(status.st_mode)
        os.mkdir(path, 0o755, dir_fd=self.folder_fd)
        os.chmod(path, mode, dir_fd=self.folder_fd)
        if not os.access(f"/{path}", os.R_OK | os.X_OK):
            return  # the user may not look into it; in the container it is empty
        try:
            tree_fd = self._overlay(path, mode)
        except OSError:
            if depth < MAX_DEPTH:
                self._show_entries(path, depth + 1)
            return
        self.trees.append((tree_fd, path))

    def _show_file(self, path: str) -> None:
        os.mknod(path, stat.S_IFREG | 0o644, dir_fd=self.folder_fd)
        self.trees.append((mounts.host_tree(f"/{path}", readonly=True, recursive=False), path))

    def _overlay(self, path: str, mode: int) -> int:
        opened = self._lower_dirs(path)
        try:
            if self._upper_fd < 0:  # a read-only overlay wants two lower dirs
                opened.append(os.open("empty", FOLDER_FLAGS, dir_fd=self.mount_fd))
                return mounts.overlay(opened)
            lower_fds = list(opened)
            self._make_upper(path, mode)
            work = f"work-{len(self.trees)}"
            _make_folder(work, self._rw_fd)
            work_fd = os.open(work, FOLDER_FLAGS, dir_fd=self._rw_fd)
            opened.append(work_fd)
            upper_fd = os.open(path, FOLDER_FLAGS, dir_fd=self._upper_fd)
            opened.append(upper_fd)
            return mounts.overlay(lower_fds, upper_fd=upper_fd, work_fd=work_fd)
        finally:
            for fd in opened:
                os.close(fd)

    def _lower_dirs(self, path: str) -> list[int]:
        """Open a folder in the layers down to where one replaces it, and in the host."""
        found = []
        for layer_fd in self._layer_fds:
            try:
                found.append(os.open(path, FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=layer_fd))
            except FileNotFoundError:
                continue
            except OSError:
                return found
        found.append(os.open(f"/{path}", FOLDER_FLAGS))
        return found

    def _make_upper(self, path: str, mode: int) -> None:
        made, is_new = "", False
        for part in path.split("/"):
            made = f"{made}/{part}" if made else part
            is_new = self._make_upper_folder(made, mode if made == path else 0o755)
        if not is_new:
            return  # of a restart: what the container has deleted stays deleted
        for premade in PREMADE:
            if premade.startswith(f"{path}/") and os.path.isdir(f"/{premade}"):
                self._make_upper_folder(premade, stat.S_IMODE(os.stat(f"/{premade}").st_mode))

    def _make_upper_folder(self, path: str, mode: int) -> bool:
        """Make a folder, and return whether there was none."""
        if not _make_folder(path, self._upper_fd):
            return False
        os.chmod(path, mode, dir_fd=self._upper_fd)
        return True


def _make_folder(path: str, dir_fd: int) -> bool:
    """Make a folder unless something has the name; return whether it is new."""
    try:
        os.mkdir(path, 0o755, dir_fd=dir_fd)
    except FileExistsError:
        return False
    return True
