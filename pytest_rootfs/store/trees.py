"""Remove whole trees whatever their depth, modes and names, following no link."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: Path) -> None:
    """Remove `path` and everything below it; nothing happens when it is gone already."""
    parent_fd = os.open(path.parent, _FOLDER_FLAGS & ~os.O_NOFOLLOW)
    try:
        remove_tree_at(parent_fd, os.fsencode(path.name))
    finally:
        os.close(parent_fd)


def remove_tree_at(parent_fd: int, name: bytes) -> None:
    """Remove `name` in the open folder `parent_fd`, with everything below it.

    Folders found inside are first moved up to the top of the tree and emptied there, so that
    neither the depth of the tree nor the length of its paths can exhaust descriptors or recursion.
    """
    try:
        top_fd = _open_folder(parent_fd, name)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        os.unlink(name, dir_fd=parent_fd)
        return
    try:
        pending = _empty(top_fd, top_fd)
        while pending:
            moved = pending.pop()
            folder_fd = _open_folder(top_fd, moved)
            try:
                pending += _empty(folder_fd, top_fd)
            finally:
                os.close(folder_fd)
            os.rmdir(moved, dir_fd=top_fd)
    finally:
        os.close(top_fd)
    os.rmdir(name, dir_fd=parent_fd)


def _empty(folder_fd: int, top_fd: int) -> list[bytes]:
    """Remove the files of a folder, move its folders into `top_fd`, return their new names."""
    moved: list[bytes] = []
    for name in os.listdir(folder_fd):
        # Another process may be removing the same tree.
        with suppress(FileNotFoundError):
            raw = os.fsencode(name)
            if not stat.S_ISDIR(os.lstat(raw, dir_fd=folder_fd).st_mode):
                os.unlink(raw, dir_fd=folder_fd)
            elif not _is_removed(folder_fd, raw):
                target = b".removed-" + os.urandom(8).hex().encode()
                _make_writable(folder_fd, raw)
                os.rename(raw, target, src_dir_fd=folder_fd, dst_dir_fd=top_fd)
                moved.append(target)
    return moved


def _is_removed(folder_fd: int, name: bytes) -> bool:
    try:
        os.rmdir(name, dir_fd=folder_fd)
    except OSError:
        return False
    return True


def _open_folder(parent_fd: int, name: bytes) -> int:
    try:
        folder_fd = os.open(name, _FOLDER_FLAGS, dir_fd=parent_fd)
    except PermissionError:
        _make_writable(parent_fd, name)
        folder_fd = os.open(name, _FOLDER_FLAGS, dir_fd=parent_fd)
    if os.fstat(folder_fd).st_mode & 0o700 != 0o700:
        os.fchmod(folder_fd, 0o700)
    return folder_fd


def _make_writable(parent_fd: int, name: bytes) -> None:
    """Let the owner list and change a folder: mode 000 stops even its owner."""
    if os.lstat(name, dir_fd=parent_fd).st_mode & 0o700 != 0o700:
        os.chmod(name, 0o700, dir_fd=parent_fd)
