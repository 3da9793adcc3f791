"""Open a path inside a root folder, out of which nothing leads.

By openat2(2), or, where a seccomp filter refuses that, one component after the other with the same
promises: absolute paths, links and `..` stay below the root, and no magic link is followed, which
leads to an object and not to a path (symlink(7), proc(5)).
"""

from __future__ import annotations

import errno
import os
import stat

from pytest_rootfs.kernel import syscalls
from pytest_rootfs.kernel.mounts import PROC_MAGIC

MAX_LINKS = 40
"""What the kernel follows in one path (path_resolution(7))."""

MAX_PATH_BYTES = 4096
PROC_ROOT_INO = 1
SECURITYFS_MAGIC = 0x73636673

_NEW = os.O_CREAT | os.O_EXCL
_STEP = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_has_openat2: list[bool] = []


def has_openat2() -> bool:
    """Tell whether openat2(2) may be called; asked once, the answer is inherited by every fork."""
    if not _has_openat2:
        _has_openat2.append(syscalls.knows_openat2())
    return _has_openat2[0]


def open_inside(path: str, flags: int, mode: int = 0) -> int:
    """Open a path inside the current directory, which absolute paths and links start from.

    No link, no `..` and no magic link of proc leads out of it. Raises OSError (EINVAL) for a path
    with a null character, where the kernel's copy of it would end.
    """
    if "\0" in path:
        raise OSError(errno.EINVAL, "a path cannot hold a null character", path)
    if not has_openat2():
        return walk_inside(path, flags, mode)
    resolve = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
    return syscalls.openat2(syscalls.AT_FDCWD, path, flags, mode=mode, resolve=resolve)


def walk_inside(path: str, flags: int, mode: int = 0) -> int:
    """Do what `open_inside` promises, without openat2(2).

    Stricter in one thing: of the links in proc only those of its topmost folder are followed
    (`self`, `mounts`), as those below cannot be told from magic ones.
    """
    if not path or len(os.fsencode(path)) >= MAX_PATH_BYTES:
        number = errno.ENAMETOOLONG if path else errno.ENOENT
        raise OSError(number, os.strerror(number), path)
    walk = _Walk(path)
    try:
        return walk.open(flags | os.O_CLOEXEC, mode)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        walk.close()


class _Walk:
    """The folders from the root to where the walk has come, each open: `..` goes back to one."""

    def __init__(self, path: str) -> None:
        self._folders = [os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)]
        self._wanted: list[str] = []
        """The components still to go, the next one last; the last one of all may be empty."""
        self._links = 0
        self._add(path)

    def close(self) -> None:
        while self._folders:
            os.close(self._folders.pop())

    def open(self, flags: int, mode: int) -> int:
        while True:
            name = self._wanted.pop()
            if name in ("", ".", ".."):
                if name == "..":
                    self._go_back()
                if not self._wanted:
                    return os.open(".", flags, dir_fd=self._folders[-1])
            elif flags & os.O_CREAT and self._wanted and not any(self._wanted):  # `name//`
                raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
            elif self._wanted:
                self._enter(name)
            elif (fd := self._open_last(name, flags, mode)) >= 0:
                return fd

    def _go_back(self) -> None:
        if len(self._folders) > 1:
            os.close(self._folders.pop())

    def _enter(self, name: str) -> None:
        """Go into a folder, or on to where a link leads."""
        fd = os.open(name, _STEP, dir_fd=self._folders[-1])
        try:
            kind = os.fstat(fd).st_mode
            if stat.S_ISLNK(kind):
                self._follow(fd)
            elif stat.S_ISDIR(kind):
                self._folders.append(fd)
                fd = -1
            else:
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        finally:
            if fd >= 0:
                os.close(fd)

    def _open_last(self, name: str, flags: int, mode: int) -> int:
        """Open the last component; -1 after a link, which has put others in its place.

        Where a program exchanges it for a link meanwhile, that is an error (ELOOP), not followed.
        """
        folder_fd = self._folders[-1]
        is_new = flags & _NEW == _NEW
        if not flags & os.O_NOFOLLOW and not is_new:
            try:
                found_fd = os.open(name, _STEP, dir_fd=folder_fd)
            except FileNotFoundError:
                pass  # to be created, or to be missed once more
            else:
                try:
                    if stat.S_ISLNK(os.fstat(found_fd).st_mode):
                        self._follow(found_fd)
                        return -1
                    if flags & os.O_PATH:  # which would take the link itself, exchanged meanwhile
                        return _checked_object(found_fd, flags)
                finally:
                    os.close(found_fd)
        return os.open(name, flags | os.O_NOFOLLOW, mode, dir_fd=folder_fd)

    def _follow(self, link_fd: int) -> None:
        self._links += 1
        if self._links > MAX_LINKS or self._may_be_magic(link_fd):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        target = os.readlink("", dir_fd=link_fd)
        if not target:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        self._add(target)

    def _may_be_magic(self, link_fd: int) -> bool:
        magic = syscalls.filesystem_magic(link_fd)
        if magic != PROC_MAGIC:
            return magic == SECURITYFS_MAGIC  # one of AppArmor's
        parent_fd = self._folders[-1]
        is_topmost = os.fstat(parent_fd).st_ino == PROC_ROOT_INO
        return not is_topmost or syscalls.filesystem_magic(parent_fd) != PROC_MAGIC

    def _add(self, path: str) -> None:
        if path.startswith("/"):
            while len(self._folders) > 1:
                os.close(self._folders.pop())
        self._wanted += reversed(path.split("/"))


def _checked_object(fd: int, flags: int) -> int:
    if flags & os.O_DIRECTORY and not stat.S_ISDIR(os.fstat(fd).st_mode):
        raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    return os.dup(fd)
