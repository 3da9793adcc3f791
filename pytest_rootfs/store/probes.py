"""Find out by trying whether a folder's file system can hold unpacked layers."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

from pytest_rootfs.errors import RootfsError
from pytest_rootfs.store.locks import claim_folder, is_no_room
from pytest_rootfs.store.trees import remove_tree
from pytest_rootfs.store.whiteouts import make_whiteout

HINT = "choose a folder on a local disk (ext4, xfs, btrfs) with --rootfs-store=DIR"


class StoreUnusable(RootfsError):
    """A folder cannot hold a store: a mistake in the settings, never a reason to skip a test."""


def probe(folder: Path) -> None:
    """Try everything that layers need in `folder`; raise StoreUnusable at the first refusal."""
    trials: dict[str, Callable[[Path], None]] = {
        "file locks": _try_lock,
        "hard links": _try_hard_link,
        "symbolic links": _try_symbolic_link,
        "names that differ by case": _try_case,
        "named pipes": _try_pipe,
        "whiteouts": _try_whiteout,
        "extended attributes user.*": _try_attribute,
        "renaming a folder": _try_rename,
    }
    base, lock_fd = claim_folder(folder)
    try:
        for name, trial in trials.items():
            try:
                trial(base)
            except OSError as error:
                if is_no_room(error):
                    raise
                raise StoreUnusable(
                    f"the store cannot be in {folder.parent}: its file system refuses {name}",
                    detail=str(error),
                    hint=HINT,
                ) from error
    finally:
        os.close(lock_fd)
        remove_tree(base)


def repair_of(error: OSError) -> str:
    """Return what helps when a store refuses to be written."""
    if error.errno == errno.EROFS:
        return "mount it writable, or move the store with --rootfs-store=DIR"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "make room with `pytest-rootfs gc --all`, or move the store with --rootfs-store=DIR"
    return HINT


def _try_lock(base: Path) -> None:
    with (base / "lock").open("w") as first, (base / "lock").open("w") as second:
        fcntl.flock(first, fcntl.LOCK_EX)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
    raise OSError("two owners hold one lock")


def _try_hard_link(base: Path) -> None:
    (base / "one").touch()
    os.link(base / "one", base / "two")
    if os.stat(base / "two").st_nlink != 2:
        raise OSError("a file with two names counts only one")


def _try_symbolic_link(base: Path) -> None:
    os.symlink("nowhere", base / "symlink")


def _try_case(base: Path) -> None:
    (base / "case").touch()
    if (base / "CASE").exists():
        raise OSError("upper and lower case are the same")


def _try_pipe(base: Path) -> None:
    os.mkfifo(base / "pipe")


def _try_whiteout(base: Path) -> None:
    folder_fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        make_whiteout(b"whiteout", folder_fd)
    finally:
        os.close(folder_fd)


def _try_attribute(base: Path) -> None:
    folder = base / "attribute"
    folder.mkdir()
    os.setxattr(folder, "user.overlay.opaque", b"y")
    if os.getxattr(folder, "user.overlay.opaque") != b"y":
        raise OSError("an attribute reads back differently")


def _try_rename(base: Path) -> None:
    (base / "from").mkdir()
    (base / "from" / "file").touch()
    os.rename(base / "from", base / "to")
