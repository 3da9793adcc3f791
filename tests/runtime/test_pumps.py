"""What is kept of long outputs."""

from __future__ import annotations

import pytest

from pytest_rootfs.runtime import pumps
from pytest_rootfs.runtime.pumps import Collected


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> Collected:
    monkeypatch.setattr(pumps, "OUTPUT_BYTES", 8)
    monkeypatch.setattr(pumps, "READ_BYTES", 2)
    return Collected()


def test_short_output_is_whole(collected: Collected) -> None:
    for chunk in (b"ab", b"cd", b"ef", b"gh"):
        collected.add(chunk)

    assert collected.take() == b"abcdefgh"


def test_middle_of_long_output_is_left_out(collected: Collected) -> None:
    for chunk in (b"ab", b"cd", b"ef", b"gh", b"ij", b"kl"):
        collected.add(chunk)

    assert collected.last(4) == b"ijkl"
    assert collected.take() == b"abcd\n[... 4 bytes left out ...]\nijkl"


def test_taken_output_is_forgotten(collected: Collected) -> None:
    collected.add(b"ab")
    collected.take()

    assert (collected.take(), collected.last(5), collected.copy()) == (b"", b"", b"")


def test_single_bytes_are_counted(collected: Collected) -> None:
    for number in range(20):
        collected.add(bytes([97 + number]))

    assert collected.take() == b"abcd\n[... 12 bytes left out ...]\nqrst"


def test_first_bytes_are_taken(collected: Collected) -> None:
    for chunk in (b"ab", b"cd", b"ef"):
        collected.add(chunk)

    assert [collected.take_first(3), collected.take_first(9), collected.take_first(9)] == [
        b"abc",
        b"def",
        b"",
    ]


def test_first_bytes_of_long_output(collected: Collected) -> None:
    for number in range(20):
        collected.add(bytes([97 + number]))

    parts = iter(lambda: collected.take_first(3), b"")

    assert b"".join(parts) == b"abcd\n[... 12 bytes left out ...]\nqrst"


def test_end_of_all_that_was_said(collected: Collected, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pumps, "SAID_BYTES", 4)
    for chunk in (b"ab", b"cd"):
        collected.add(chunk)
    collected.take()
    collected.pass_on(b"ef")
    collected.add(b"gh")

    assert (collected.said(4), collected.said(3), collected.copy()) == (b"efgh", b"fgh", b"gh")
    for _ in range(100):
        collected.pass_on(b"ij")
    assert len(collected._taken) <= 8
