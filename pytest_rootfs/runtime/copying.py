"""Copy files between host and container, with the container's own paths."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from pytest_rootfs.runtime.path import ContainerPath

CHUNK_BYTES = 1 << 20
KERNEL_FOLDERS = ("/dev", "/proc", "/sys")
ONLY = "only files, folders and symlinks can be copied"


def host_path(path: str | os.PathLike[str]) -> Path:
    """Return a path of the host; an empty one is nothing, where `Path` takes it for `.`."""
    if not (text := os.fsdecode(path)):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), text)
    return Path(text)


def copy_in(source: Path, target: ContainerPath, *, into: bool) -> None:
    """Copy a host file or tree; symlinks stay symlinks, modes stay, owner becomes root.

    `into` says that the target was written with a slash at its end; an existing folder is one too.
    Raises the errors of `pathlib`.
    """
    if source.name in ("", ".."):
        source = source.resolve()  # `.` and `..` are no names to copy to
    source.lstat()  # raises before anything is made
    if into or target.is_dir():
        target = target / (source.name or "root")
    target.parent.mkdir(parents=True, exist_ok=True)
    todo = [(source, target)]  # a tree may be deeper than Python recurses
    folders: list[tuple[ContainerPath, int]] = []
    try:
        while todo:
            source, target = todo.pop()
            mode = source.lstat().st_mode
            if stat.S_ISDIR(mode):
                target.mkdir(0o700, exist_ok=True)
                folders.append((target, mode))
                entries = sorted(source.iterdir(), reverse=True)
                todo += ((entry, target / entry.name) for entry in entries)
            else:
                _copy_one_in(source, target, mode)
    finally:
        for folder, mode in reversed(folders):
            folder.chmod(stat.S_IMODE(mode))


def _copy_one_in(source: Path, target: ContainerPath, mode: int) -> None:
    if stat.S_ISLNK(mode):
        _make_room(target)
        target.symlink_to(os.readlink(source))
    elif stat.S_ISREG(mode):
        with source.open("rb") as reader, target.open("wb") as writer:
            shutil.copyfileobj(reader, writer, CHUNK_BYTES)
        target.chmod(stat.S_IMODE(mode))
    else:
        raise OSError(errno.EINVAL, ONLY, str(source))


def refuse_special(path: ContainerPath, mode: int) -> bool:
    """Leave nothing out; raise for what cannot be copied."""
    if _is_special(mode):
        raise OSError(errno.EINVAL, ONLY, str(path))
    return False


class LeftOut:
    """Leave out, and note, special files and the kernel's folders below the source of a copy."""

    def __init__(self, source: ContainerPath) -> None:
        self._source = source
        self.kernel_folders: list[str] = []
        self.special_files: list[str] = []

    def __call__(self, path: ContainerPath, mode: int) -> bool:
        """Tell whether it is left out."""
        is_kernels = path != self._source and str(path) in KERNEL_FOLDERS
        if is_kernels:
            self.kernel_folders.append(str(path))
        elif _is_special(mode):
            self.special_files.append(str(path))
        return is_kernels or _is_special(mode)


def _is_special(mode: int) -> bool:
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode))


def copy_out(
    source: ContainerPath,
    target: Path,
    *,
    into: bool,
    leaves_out: Callable[[ContainerPath, int], bool] = refuse_special,
) -> None:
    """Copy a container's file or tree to the host; it belongs to whoever runs this.

    A symlink named by `source` is followed, those below a folder stay symlinks. Modes stay, but
    for set-id bits. `leaves_out` is asked of each path and its mode, and for all special files
    must say yes or raise.
    """
    if into or target.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        # a name of `..` would spread the container's files over the folder above
        target = target / (source.name if source.name not in ("", "..") else "root")
    mode = source.stat().st_mode
    if leaves_out(source, mode):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    todo = [(source, target, mode)]
    folders: list[tuple[Path, int]] = []
    try:
        while todo:
            source, target, mode = todo.pop()
            if not stat.S_ISDIR(mode):
                _copy_one_out(source, target, mode)
                continue
            target.mkdir(0o700, exist_ok=True)
            folders.append((target, mode))
            found = [(entry, entry.lstat().st_mode) for entry in sorted(source.iterdir())]
            copied = [each for each in found if not leaves_out(*each)]
            for entry, entry_mode in reversed(copied):
                # what an earlier copy has left must not lead this one elsewhere on the host
                _make_room(target / entry.name)
                todo.append((entry, target / entry.name, entry_mode))
    finally:
        for folder, mode in reversed(folders):
            folder.chmod(mode & 0o777)


def _copy_one_out(source: ContainerPath, target: Path, mode: int) -> None:
    if stat.S_ISLNK(mode):
        target.symlink_to(str(source.readlink()))
        return
    try:
        _write_out(source, target, mode)
    except OSError as error:
        if error.filename is None:  # write(2) does not know it
            error.filename = str(target)
        raise


def _write_out(source: ContainerPath, target: Path, mode: int) -> None:
    # opened without following: the tree of a container is not to be trusted with host paths
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    with source.open("rb") as reader, os.fdopen(os.open(target, flags, 0o600), "wb") as writer:
        shutil.copyfileobj(reader, writer, CHUNK_BYTES)
        if stat.S_ISREG(os.fstat(writer.fileno()).st_mode):  # a device keeps its own
            os.fchmod(writer.fileno(), mode & 0o777)


def _make_room(target: ContainerPath | Path) -> None:
    """Remove a symlink that stands where something is to be copied."""
    if target.is_symlink():
        target.unlink()
