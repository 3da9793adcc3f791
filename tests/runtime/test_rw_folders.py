"""Rw layers on disk, as kernels before 6.6 want them: swept after a kill, and made whole or not."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from groups import dead_pid

from pytest_rootfs.kernel.proc_files import start_time
from pytest_rootfs.runtime import rw_folders
from pytest_rootfs.runtime.rw_folders import RwLayers


@pytest.fixture
def layers_fd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Give the folder of layers on a kernel that wants rw layers on disk."""
    monkeypatch.setattr(rw_folders, "_tmpfs_has_attributes", lambda: False)
    folder_fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield folder_fd
    os.close(folder_fd)


def test_abandoned_rw_layers_are_swept(layers_fd: int, tmp_path: Path) -> None:
    abandoned, odd = f".rw-{dead_pid()}-1-1", (".rw-", ".rw-1", ".rw-x-1-1")
    own = f".rw-{os.getpid()}-{start_time(os.getpid())}-7"
    for name in (abandoned, own, *odd):
        (tmp_path / name).mkdir()
    at = os.open(abandoned, os.O_RDONLY, dir_fd=layers_fd)
    for _ in range(1500):  # deeper than Python's recursion and than the usual open files
        os.mkdir("d", dir_fd=at)
        below = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)

    RwLayers(layers_fd)

    assert sorted(os.listdir(tmp_path)) == sorted([own, *odd])


def test_rw_layer_that_fails_leaves_nothing(
    layers_fd: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    layers = RwLayers(layers_fd)
    monkeypatch.setattr(rw_folders.init_layer, "copy_attributes", refuse)
    before = os.listdir("/proc/self/fd")

    with pytest.raises(OSError, match="No space left"):
        layers.make({}, tmp_path.stat())

    assert os.listdir(tmp_path) == []
    assert os.listdir("/proc/self/fd") == before
