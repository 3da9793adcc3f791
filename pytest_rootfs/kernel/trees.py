"""Remove whole trees whatever their depth, modes and names, following no link.

Several processes may remove one tree at a time: what is gone already is no error.
"""

from __future__ import annotations

import os
import stat

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree_at(parent_fd: int, name: bytes) -> None:
    """Remove `name` in the open folder `parent_fd`, with everything below it.

    Folders found inside are first moved up to the top of the tree and emptied there, so that
    neither the depth of the tree nor the length of its paths can exhaust descriptors or recursion.
    Raises ENOTEMPTY while another process is not done with the same tree.
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
            pending += _remove_moved(top_fd, pending.pop())
    finally:
        os.close(top_fd)
    try:
        os.rmdir(name, dir_fd=parent_fd)
    except FileNotFoundError:
        pass  # another process has removed it


def _remove_moved(top_fd: int, name: bytes) -> list[bytes]:
    """Remove a folder that was moved up; return the new names of those that were in it."""
    try:
        folder_fd = _open_folder(top_fd, name)
        try:
            moved = _empty(folder_fd, top_fd)
        finally:
            os.close(folder_fd)
    except FileNotFoundError:
        return []  # another process has found it at the top, and removes it
    try:
        os.rmdir(name, dir_fd=top_fd)
    except FileNotFoundError:
        pass  # as above
    return moved


def _empty(folder_fd: int, top_fd: int) -> list[bytes]:
    """Remove the files of a folder, move its folders into `top_fd`, return their new names."""
    moved: list[bytes] = []
    for name in os.listdir(folder_fd):
        raw = os.fsencode(name)
        try:
            if not stat.S_ISDIR(os.lstat(raw, dir_fd=folder_fd).st_mode):
                os.unlink(raw, dir_fd=folder_fd)
            elif not _is_removed(folder_fd, raw):
                target = b".removed-" + os.urandom(8).hex().encode()
                _make_writable(folder_fd, raw)
                os.rename(raw, target, src_dir_fd=folder_fd, dst_dir_fd=top_fd)
                moved.append(target)
        except FileNotFoundError:
            pass  # another process is removing the same tree
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
