"""Subordinate ids as they are written in files, and as a user namespace takes them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_rootfs.runtime import subordinate_ids

RANGES = st.lists(st.tuples(st.integers(1, 300), st.integers(1, 80)), max_size=8)


def parsed(tmp_path: Path, text: str) -> tuple[list[tuple[int, int]], list[str]]:
    path = tmp_path / "subuid"
    path.write_text(text)
    return subordinate_ids.read_ranges(str(path), "alice", 1001)


def test_ranges_by_name_and_by_number(tmp_path: Path) -> None:
    text = "bob:1:2\nalice:100000:65536\n10011:7:8\n1001:300000:10\nalice2:5:6\n"

    assert parsed(tmp_path, text) == ([(100000, 65536), (300000, 10)], [])


def test_missing_file_has_no_ranges(tmp_path: Path) -> None:
    path = str(tmp_path / "subuid")

    assert subordinate_ids.read_ranges(path, "alice", 1001) == ([], [])


@pytest.mark.parametrize(
    "line",
    [
        "alice",
        "alice:",
        "alice:100000",
        "alice:100000:",
        "alice::65536",
        "alice:100000:0",
        "alice:-1:65536",
        "alice:+1:65536",
        "alice:100000:65536:1",
        "alice:1e5:65536",
        "alice:\u00b2:65536",
        "alice:\u0661:65536",
        "alice:4294967290:6",
        "alice:100000:4294967295",
        f"alice:{'9' * 5000}:1",
    ],
)
def test_malformed_line_is_told(tmp_path: Path, line: str) -> None:
    assert parsed(tmp_path, f"{line}\nalice:7:8\n") == ([(7, 8)], [line])


def test_range_may_reach_the_last_id(tmp_path: Path) -> None:
    assert parsed(tmp_path, "alice:4294967290:5\n") == ([(4294967290, 5)], [])


@pytest.mark.parametrize("line", ["# alice:1:2", "", ":1:2", " alice:x:y", "bob:x:y", "\udcff:1:2"])
def test_lines_of_nobody_here_are_passed_over(tmp_path: Path, line: str) -> None:
    path = tmp_path / "subuid"
    path.write_text(f"{line}\n", errors="surrogateescape")

    found = subordinate_ids.read_ranges(str(path), "alice2", 1002)

    assert found == ([], [])


def test_ranges_are_laid_one_after_the_other() -> None:
    ranges = [(300000, 1000), (100000, 65536)]

    assert subordinate_ids.map_ranges(ranges, first_inside=1) == [
        (1, 300000, 1000),
        (1001, 100000, 64535),
    ]


def test_touching_ranges_stay_apart() -> None:
    assert subordinate_ids.map_ranges([(100, 10), (110, 10)], first_inside=1) == [
        (1, 100, 10),
        (11, 110, 10),
    ]


def test_range_that_is_there_twice_counts_once() -> None:
    assert subordinate_ids.map_ranges([(100, 10), (100, 10)], first_inside=1) == [(1, 100, 10)]


def test_overlap_is_left_out_of_the_later_range() -> None:
    assert subordinate_ids.map_ranges([(100, 10), (90, 30)], first_inside=0) == [
        (0, 100, 10),
        (10, 90, 10),
        (20, 110, 10),
    ]


@given(RANGES)
def test_map_has_each_id_of_the_ranges_once(ranges: list[tuple[int, int]]) -> None:
    lines = subordinate_ids.map_ranges(ranges, first_inside=1)

    outside = [first + step for _, first, count in lines for step in range(count)]
    inside = [first + step for first, _, count in lines for step in range(count)]
    assert sorted(outside) == sorted(
        {x for first, count in ranges for x in range(first, first + count)}
    )
    assert inside == list(range(1, len(outside) + 1))
    assert all(
        any(first <= start and start + count <= first + size for first, size in ranges)
        for _, start, count in lines
    )
