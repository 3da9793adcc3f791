"""Remove whole trees whatever their depth, modes and names, following no link.

Several processes may remove one tree at a time: what is gone already is no error.
"""

from __future__ import annotations

import os
import stat

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree_at(parent_fd: int, name: bytes) -> int:
    """Remove `name` in the open folder `parent_fd`, with everything below it.

    Returns the bytes on disk that it had; of several names of one file, each counts.

    Folders found inside are first moved up to the top of the tree and emptied there, so that
    neither the depth of the tree nor the length of its paths can exhaust descriptors or recursion.
    Raises ENOTEMPTY while another process is not done with the same tree.
    """
    try:
        top_fd = _open_folder(parent_fd, name)
    except FileNotFoundError:
        return 0
    except NotADirectoryError:
        freed = _bytes_of(os.lstat(name, dir_fd=parent_fd))
        os.unlink(name, dir_fd=parent_fd)
        return freed
    try:
        freed = _bytes_of(os.fstat(top_fd))
        pending: list[bytes] = []
        freed += _empty(top_fd, top_fd, pending)
        while pending:
            freed += _remove_moved(top_fd, pending.pop(), pending)
    finally:
        os.close(top_fd)
    try:
        os.rmdir(name, dir_fd=parent_fd)
    except FileNotFoundError:
        pass  # another process has removed it
    return freed


def _remove_moved(top_fd: int, name: bytes, moved: list[bytes]) -> int:
    """Remove a folder that was moved up; add the new names of those in it; return its bytes."""
    try:
        folder_fd = _open_folder(top_fd, name)
        try:
            freed = _empty(folder_fd, top_fd, moved)
        finally:
            os.close(folder_fd)
    except FileNotFoundError:
        return 0  # another process has found it at the top, and removes it
    try:
        os.rmdir(name, dir_fd=top_fd)
    except FileNotFoundError:
        pass  # as above
    return freed


def _empty(folder_fd: int, top_fd: int, moved: list[bytes]) -> int:
    """Remove the files of a folder, move its folders into `top_fd`; return the bytes of all.

    Adds the new names of the folders to `moved`.
    """
    freed = 0
    for name in os.listdir(folder_fd):
        raw = os.fsencode(name)
        try:
            status = os.lstat(raw, dir_fd=folder_fd)
            if not stat.S_ISDIR(status.st_mode):
                os.unlink(raw, dir_fd=folder_fd)
            elif not _is_removed(folder_fd, raw):
                target = b".removed-" + os.urandom(8).hex().encode()
                _make_writable(folder_fd, raw)
                os.rename(raw, target, src_dir_fd=folder_fd, dst_dir_fd=top_fd)
                moved.append(target)
            freed += _bytes_of(status)
        except FileNotFoundError:
            pass  # another process is removing the same tree
    return freed


def _bytes_of(status: os.stat_result) -> int:
    return status.st_blocks * 512


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
