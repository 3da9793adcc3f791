"""Read and write layer archives ("assembly 1"): the one import for both directions."""

from __future__ import annotations

from pytest_rootfs.store.entries import Entry, Kind, normalised
from pytest_rootfs.store.tar_reader import Reader, read_entries
from pytest_rootfs.store.tar_writer import TarWriter

__all__ = ["Entry", "Kind", "Reader", "TarWriter", "normalised", "read_entries"]
