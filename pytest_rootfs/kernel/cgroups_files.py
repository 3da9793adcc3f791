"""Reach the files of control groups through descriptors.

A folder is opened once, by a process that may; whatever is below is then reached relative to its
descriptor, also by a forked child with other ids that could not walk the path. Every `OSError`
carries what was tried and the whole path. Nothing is ever deleted but by `rmdir`.
"""

from __future__ import annotations

import errno
import os
import time

from pytest_rootfs.kernel import proc_files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    Owner = tuple[int, int]
    LimitValue = int | float | None
    Limits = dict[str, LimitValue]
    Figures = dict[str, int | float | None]

CPU_PERIOD_US = 100_000
"""What the kernel gives every new group, so on v1 it is not written."""
_CPU_QUOTA_US = (1_000, 1 << 40)
"""The kernel takes 1 ms to 2**44 µs of quota (sched-bwc.rst); more than 2**40 is no limit."""
_NO_FIGURE = (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP)
_BACK_OFF_S = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064)


class Folder:
    """An open control group folder."""

    __slots__ = ("fd", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise explained(error, "open", path) from error

    def open(self, rel_path: str, flags: int) -> int:
        """Open what is below; the caller closes."""
        try:
            return os.open(rel_path, flags | os.O_CLOEXEC, dir_fd=self.fd)
        except OSError as error:
            raise explained(error, "open", self.at(rel_path)) from error

    def write(self, rel_path: str, value: str) -> None:
        """Write `value` in one call, as the kernel wants it."""
        fd = self.open(rel_path, os.O_WRONLY)
        try:
            os.write(fd, value.encode())
        except OSError as error:
            raise explained(error, f"write {value!r} to", self.at(rel_path)) from error
        finally:
            os.close(fd)

    def read(self, rel_path: str) -> str | None:
        """Return the whole file; None when this kernel, or a removed group, does not have it."""
        try:
            fd = os.open(rel_path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.fd)
            try:
                return proc_files.read_all(fd)
            finally:
                os.close(fd)
        except OSError as error:
            if error.errno in _NO_FIGURE:
                return None
            raise explained(error, "read", self.at(rel_path)) from error

    def mkdir(self, rel_path: str) -> None:
        """Make a group."""
        try:
            os.mkdir(rel_path, 0o755, dir_fd=self.fd)
        except OSError as error:
            raise explained(error, "mkdir", self.at(rel_path)) from error

    def rmdir(self, rel_path: str) -> bool:
        """Remove one group; False while it is in use, True also when it was gone already."""
        try:
            os.rmdir(rel_path, dir_fd=self.fd)
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno in (errno.EBUSY, errno.ENOTEMPTY):
                return False
            raise explained(error, "rmdir", self.at(rel_path)) from error
        return True

    def has(self, rel_path: str) -> bool:
        """Tell whether this kernel, with what is enabled here, has that file."""
        return os.access(rel_path, os.F_OK, dir_fd=self.fd)

    def give(self, owner: Owner, rel_paths: tuple[str, ...]) -> None:
        """Give the folder and these files of it to another user and group, where they exist."""
        for rel_path in (".", *rel_paths):
            try:
                os.chown(rel_path, *owner, dir_fd=self.fd)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise explained(error, "chown", self.at(rel_path)) from error

    def at(self, rel_path: str) -> str:
        """Return the whole path, for a person."""
        return os.path.normpath(os.path.join(self.path, rel_path))

    def close(self) -> None:
        """Close the descriptor; the folder stays."""
        os.close(self.fd)


def explained(error: OSError, what: str, path: str) -> OSError:
    """Return the same error with what was tried and on which whole path."""
    number = error.errno or 0
    return OSError(number, f"{what}: {os.strerror(number)}", path)


def number_in(text: str | None) -> int | None:
    """Return the number that is all of a file's text; None for "max" and for no file."""
    return int(text) if text is not None and text.strip().isdigit() else None


def keyed_in(text: str | None) -> dict[str, int]:
    """Return the numbers of a flat keyed file, `KEY VALUE` a line."""
    pairs = [line.split() for line in (text or "").splitlines()]
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def cpu_quota_us(cpus: float) -> int:
    """Return the quota a period for so many processors, within what the kernel accepts."""
    least, most = _CPU_QUOTA_US
    return max(least, min(most, int(cpus * CPU_PERIOD_US)))


def remove_tree(parent: Folder, name: str) -> bool:
    """Remove a folder and every group below it; False if something is still in use.

    A group stays busy for a moment after its last process was reaped, so this waits, at most
    0.13 s in all.
    """
    for pause_s in (*_BACK_OFF_S, None):
        if _rmdir_below(parent, name):
            return True
        if pause_s is not None:
            time.sleep(pause_s)
    return False


def folders_in(folder: Folder, rel_path: str = ".") -> Iterator[str]:
    """Yield the names of the groups right below."""
    try:
        fd = folder.open(rel_path, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return
    try:
        with os.scandir(fd) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    finally:
        os.close(fd)
    yield from names


def _rmdir_below(parent: Folder, name: str) -> bool:
    for child in folders_in(parent, name):
        _rmdir_below(parent, f"{name}/{child}")
    return parent.rmdir(name)
