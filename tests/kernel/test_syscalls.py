"""System calls that the kernel asks to be repeated."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

import pytest

from pytest_rootfs.kernel import syscalls


class Racing:
    """An openat2(2) that is crossed by a number of renames."""

    def __init__(self, renames: int) -> None:
        self.renames = renames
        self.openat2 = syscalls._openat2

    def __call__(self, *args: object) -> int:
        """Fail as the kernel does, then call it."""
        if self.renames:
            self.renames -= 1
            ctypes.set_errno(errno.EAGAIN)
            return -1
        return self.openat2(*args)


def test_path_crossed_by_renames_is_opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(syscalls, "_openat2", Racing(renames=2))

    fd = syscalls.openat2(syscalls.AT_FDCWD, str(tmp_path), os.O_PATH, resolve=0)

    assert os.path.samestat(os.fstat(fd), tmp_path.stat())
    os.close(fd)


def test_endless_renames_are_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(syscalls, "_openat2", Racing(renames=1000))

    with pytest.raises(BlockingIOError):
        syscalls.openat2(syscalls.AT_FDCWD, str(tmp_path), os.O_PATH, resolve=0)
