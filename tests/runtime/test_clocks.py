"""A moment of the clock divides the changes of files into those before and those after."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_rootfs.runtime.clocks import Clock

HAS_EXACT_TIMES = tuple(map(int, os.uname().release.split("-")[0].split(".")[:2])) >= (6, 13)


@pytest.fixture
def clock() -> Iterator[Clock]:
    made = Clock()
    yield made
    made.close()


def test_later_change_is_not_before_the_moment(clock: Clock, tmp_path: Path) -> None:
    file = tmp_path / "file"

    for number in range(200):
        moment_ns = clock.now_ns()
        file.write_text(str(number))
        assert file.stat().st_ctime_ns >= moment_ns


def test_earlier_change_is_before_the_moment(clock: Clock, tmp_path: Path) -> None:
    late = 0
    for number in range(200):
        file = tmp_path / f"file{number}"
        file.touch()
        moment_ns = clock.now_ns()
        late += file.stat().st_ctime_ns >= moment_ns

    assert late == 0 or not HAS_EXACT_TIMES
