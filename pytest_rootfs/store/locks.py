"""Hold flock(2) locks in files and folders that somebody may remove under us.

A lock lives as long as its open file description: it ends with its process, however that dies.
A lock that was taken counts only if the name still leads to the locked inode; otherwise a
collector was faster, and the lock is taken again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Tell = Callable[[str], None]
"""Who hears, in a sentence, of whom we wait for."""

TELL_AFTER_S = 2.0
"""How long a wait may last before the one who waits is told for whom."""
_LABEL_BYTES = 200


@contextmanager
def locked(
    path: Path, *, shared: bool = False, label: str = "", tell: Tell | None = None
) -> Iterator[None]:
    """Hold the lock file `path` (created if missing); `tell` hears who has it after 2 s.

    Not re-entrant: a second `locked` of the same name in one thread waits for itself.
    """
    fd = _acquire(path, shared=shared, label=label, tell=tell)
    try:
        yield
    finally:
        os.close(fd)


def _acquire(path: Path, *, shared: bool = False, label: str = "", tell: Tell | None = None) -> int:
    """Lock `path` and return the descriptor that holds the lock; an exclusive holder signs it."""
    mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _flock(fd, mode, tell)
            if leads_to(path, fd):
                if not shared:
                    _sign(fd, label)
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def try_exclusive(fd: int) -> bool:
    """Lock an open file or folder without waiting; False when somebody else has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def leads_to(path: Path, fd: int) -> bool:
    """Tell whether the name `path` is still the file that `fd` has open."""
    try:
        named = os.lstat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(named, os.fstat(fd))


def claim_file(folder: Path, *, prefix: str = "") -> tuple[Path, int]:
    """Create an empty, locked file with a fresh name; return its path and descriptor."""
    while True:
        path = folder / (prefix + fresh_name())
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            if _is_ours(path, fd):
                return path, fd
        except KeyboardInterrupt:  # it may be there, and nobody would remove it
            path.unlink(missing_ok=True)
            raise


def claim_folder(folder: Path) -> tuple[Path, int]:
    """Create an empty, locked folder with a fresh name; return its path and descriptor."""
    while True:
        path = folder / fresh_name()
        path.mkdir(mode=0o700)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        if _is_ours(path, fd):
            return path, fd


def take_if_dead(path: Path, target: Path) -> bool:
    """Move a file or folder away (remove it, if `target` is itself) unless its owner lives."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        if not try_exclusive(fd):
            return False
        if leads_to(path, fd):
            if target == path:
                path.unlink()
            else:
                path.rename(target)
        return True
    finally:
        os.close(fd)


def is_no_room(error: OSError) -> bool:
    """Tell whether a disk is full, or may not be written at all: reading it still works."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def fresh_name() -> str:
    """Return a name that nobody has used: 16 hexadecimal digits."""
    return os.urandom(8).hex()


def _is_ours(path: Path, fd: int) -> bool:
    """Lock what was just created, unless a collector locked or removed it in between."""
    if try_exclusive(fd) and leads_to(path, fd):
        return True
    os.close(fd)
    return False


def _flock(fd: int, mode: int, tell: Tell | None) -> None:
    try:
        fcntl.flock(fd, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        if tell is None:
            fcntl.flock(fd, mode)
        else:
            _wait(fd, mode, tell)


def _wait(fd: int, mode: int, tell: Tell) -> None:
    """Wait for a lock in a thread, so that this one can tell of it, and be interrupted."""
    failures: list[OSError] = []
    ours_fd = os.dup(fd)  # the caller may give up and close its own; the lock goes with the last

    def take() -> None:
        try:
            fcntl.flock(ours_fd, mode)
        except OSError as error:
            failures.append(error)
        finally:
            os.close(ours_fd)

    taker = threading.Thread(target=take, name="rootfs-lock", daemon=True)
    taker.start()
    taker.join(TELL_AFTER_S)
    if taker.is_alive():
        tell(f"waiting for {_holder(fd)}")
        taker.join()
    if failures:
        raise failures[0]


def _holder(fd: int) -> str:
    return os.pread(fd, _LABEL_BYTES, 0).decode(errors="replace").strip() or "another process"


def _sign(fd: int, label: str) -> None:
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    who = f"pid {os.getpid()}" + (f" ({worker})" if worker else "")
    text = f"{who}, which {label}" if label else who
    # Padded, not truncated first: ext4 flushes a file to disk that was emptied and written anew.
    label_bytes = text.encode()[:_LABEL_BYTES].ljust(_LABEL_BYTES)
    try:
        os.pwrite(fd, label_bytes, 0)
    except OSError as error:
        if not is_no_room(error):  # the lock holds without a signature
            raise
