"""The init layer: the topmost lower dir of a container, which is never committed.

It holds `/etc/hosts`, `/etc/hostname`, `/etc/resolv.conf` and the mount points, so that starting a
container creates none of them. Folders that the image has too get the image's attributes, because
in an overlay the topmost lower dir decides them. Image paths are walked component by component;
a symlink never leads outside, and where the init layer needs a folder it is refused.
"""

from __future__ import annotations

import errno
import os
import stat

from pytest_rootfs.kernel import mounts
from pytest_rootfs.kernel.inside import MAX_LINKS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_rootfs.runtime.protocol import Message

RESERVED = ("proc", "sys", "dev")
"""Where nothing is mounted at a person's wish, by no detour either (CVE-2019-19921)."""

OVERFLOW_ID = 65534
"""How an id that is not mapped looks; user_namespaces(7), /proc/sys/kernel/overflowuid."""

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def build(content: Message, layer_fds: Sequence[int]) -> tuple[int, int]:
    """Return a new init layer for an image whose layers are given topmost first.

    Two descriptors: the detached mount, which lives as long as this one is open, and its root
    folder opened for reading, as an overlay wants it.

    `content` has `dirs`, `files` (path → text), `symlinks` (path → target), `targets` (mount points
    named by people: path → "dir", "file" or "tmpfs") and `workdir`.
    """
    view_fd = mounts.overlay_view(layer_fds) if layer_fds else -1
    mount_fd = mounts.filesystem("tmpfs", {"mode": "755"})
    layer_fd = os.open(".", FOLDER_FLAGS, dir_fd=mount_fd)
    try:
        maker = _Maker(layer_fd, view_fd)
        if view_fd >= 0:
            copy_attributes(os.stat(view_fd), layer_fd)
        for path in content["dirs"]:
            maker.make_own_dir(path)
        for path, text in content["files"].items():
            maker.make_own_file(path, text)
        for path, target in content["symlinks"].items():
            os.symlink(target, path, dir_fd=layer_fd)
        for path, kind in content["targets"].items():
            maker.make_target(path, kind)
        maker.make_workdir(content["workdir"])
        maker.restore_times()
        return mount_fd, layer_fd
    except OSError:
        os.close(layer_fd)
        os.close(mount_fd)
        raise
    finally:
        if view_fd >= 0:
            os.close(view_fd)


def copy_attributes(source: os.stat_result, target_fd: int) -> None:
    """Give a folder the owner, mode and times of another."""
    os.chown(target_fd, *_owner(source))
    os.chmod(target_fd, stat.S_IMODE(source.st_mode))
    os.utime(target_fd, ns=(source.st_mtime_ns, source.st_mtime_ns))


def _owner(status: os.stat_result) -> tuple[int, int]:
    """Return the owner of a folder; root for one whose owner this user namespace does not map."""
    uid, gid = status.st_uid, status.st_gid
    return (0 if uid == OVERFLOW_ID else uid), (0 if gid == OVERFLOW_ID else gid)


class _Maker:
    """Makes the entries of an init layer (`layer_fd`), in view of the image's (-1 for none)."""

    def __init__(self, layer_fd: int, view_fd: int) -> None:
        self._layer_fd = layer_fd
        self._view_fd = view_fd
        self._times: list[tuple[str, int]] = []

    def make_own_dir(self, path: str) -> None:
        """Make a folder of ours; parents first."""
        status = self._image_stat(path)
        if status is not None and not stat.S_ISDIR(status.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, "is no folder in the image", f"/{path}")
        self._make_dir(path, status)

    def make_own_file(self, path: str, text: str) -> None:
        """Make a file of ours, whatever the image has under its name."""
        parent = os.path.dirname(path)
        if parent:
            self.make_own_dir(parent)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(path, flags, 0o644, dir_fd=self._layer_fd)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)

    def make_target(self, path: str, kind: str) -> None:
        """Make a mount point at a path of the image, or of the init layer, following its links."""
        parts = self._resolve(path)
        status = self._image_stat("/".join(parts)) if parts else None
        if not parts:
            raise OSError(errno.EBUSY, "the root folder cannot be a mount point", path)
        if parts[0] in RESERVED:
            raise OSError(errno.EBUSY, f"it leads to /{'/'.join(parts)} by a symlink", path)
        is_folder = kind != "file"
        if status is not None and stat.S_ISDIR(status.st_mode) != is_folder:
            reason = "it is no folder in the image" if is_folder else "it is a folder in the image"
            raise OSError(errno.ENOTDIR, reason, path)
        for end in range(1, len(parts)):
            try:
                self.make_own_dir("/".join(parts[:end]))
            except NotADirectoryError as error:
                reason = f"{error.filename} {error.strerror}"
                raise OSError(errno.ENOTDIR, reason, path) from None
        whole = "/".join(parts)
        if is_folder:
            self._make_dir(whole, status, 0o1777 if kind == "tmpfs" else 0o755)
        elif not self._exists(whole):
            self.make_own_file(whole, "")

    def make_workdir(self, path: str) -> None:
        """Make the working directory of a container whose image lacks it, as Docker does."""
        parts = self._resolve(path)
        if parts and parts[0] not in RESERVED and self._image_stat("/".join(parts)) is None:
            self.make_target(path, "dir")

    def restore_times(self) -> None:
        """Set the times of folders, which filling them has changed; deepest first."""
        for path, mtime_ns in reversed(self._times):
            os.utime(path, ns=(mtime_ns, mtime_ns), dir_fd=self._layer_fd)

    def _make_dir(self, path: str, status: os.stat_result | None, mode: int = 0o755) -> None:
        try:
            os.mkdir(path, dir_fd=self._layer_fd)
        except FileExistsError:
            return
        if status is None:
            os.chmod(path, mode, dir_fd=self._layer_fd)
        else:
            os.chown(path, *_owner(status), dir_fd=self._layer_fd)
            os.chmod(path, stat.S_IMODE(status.st_mode), dir_fd=self._layer_fd)
            self._times.append((path, status.st_mtime_ns))

    def _exists(self, path: str) -> bool:
        try:
            os.stat(path, dir_fd=self._layer_fd, follow_symlinks=False)
        except OSError:
            return False
        return True

    def _image_stat(self, path: str) -> os.stat_result | None:
        if self._view_fd < 0:
            return None
        try:
            return os.stat(path, dir_fd=self._view_fd, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _resolve(self, path: str) -> list[str]:
        """Return the components of a path with the image's symlinks resolved inside its root."""
        wanted = [part for part in path.split("/") if part not in ("", ".")]
        found: list[str] = []
        links = 0
        while wanted:
            part = wanted.pop(0)
            if part == "..":
                found = found[:-1]
                continue
            here = "/".join([*found, part])
            status = self._image_stat(here)
            if status is None or not stat.S_ISLNK(status.st_mode):
                found.append(part)
                continue
            links += 1
            if links > MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            target = os.readlink(here, dir_fd=self._view_fd)
            if target.startswith("/"):
                found = []
            wanted = [part for part in target.split("/") if part not in ("", ".")] + wanted
        return found
