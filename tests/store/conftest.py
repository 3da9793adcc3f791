"""A store of its own for every test of the store."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from foreign_images import Layout

from pytest_rootfs.store.store import Store


@pytest.fixture
def deep_path(tmp_path: Path) -> Iterator[Path]:
    """Give a folder that may become too deep for pytest's own cleaning; emptied after the test."""
    yield tmp_path
    subprocess.run(["find", tmp_path, "-mindepth", "1", "-delete"], check=True)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")
