"""Values that people type: sizes, counts, seconds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_rootfs import settings


@pytest.mark.parametrize(
    ("value", "size_bytes"),
    [
        (1, 1),
        ("1", 1),
        ("64M", 64 << 20),
        ("64m", 64 << 20),
        ("64 MiB", 64 << 20),
        ("64MB", 64 << 20),
        (" 1.5G ", 3 << 29),
        ("512KiB", 512 << 10),
        ("100B", 100),
        ("2T", 2 << 40),
        ("1.9", 1),
        (2**63 - 1, 2**63 - 1),
        ("9007199254740993", 9007199254740993),
    ],
)
def test_sizes(value: object, size_bytes: int) -> None:
    assert settings.parse_size("memory", value) == size_bytes


@pytest.mark.parametrize(
    "value",
    [
        *(0, -1, 1.5, True, None, b"1M", 2**63),
        *("", "0", "-1", "M", "1X", "1 M B", "1e3", "0.5", "1,5G", "\u0663M", "64 Mi", "1iB"),
        "9" * 400,
    ],
)
def test_bad_sizes_name_the_key(value: object) -> None:
    with pytest.raises(ValueError, match=r"^memory="):
        settings.parse_size("memory", value)


@pytest.mark.parametrize(("value", "count"), [(1, 1), ("7", 7), (" 12 ", 12)])
def test_counts(value: object, count: int) -> None:
    assert settings.parse_count("pids", value) == count


@pytest.mark.parametrize(
    "value", [0, -1, 1.0, True, None, "", "0", "-1", "1.5", "1e3", "+1", "\u0663", "9" * 5000]
)
def test_bad_counts_name_the_key(value: object) -> None:
    with pytest.raises(ValueError, match=r"^pids="):
        settings.parse_count("pids", value)


@pytest.mark.parametrize(
    ("value", "number"), [(1, 1.0), (0.5, 0.5), ("0.5", 0.5), (" 2 ", 2.0), ("1e3", 1000.0)]
)
def test_positive_numbers(value: object, number: float) -> None:
    assert settings.parse_cores("cpus", value) == number


@pytest.mark.parametrize(
    "value", [0, -1, True, None, "", "x", "0", "-0.5", "nan", "inf", float("nan"), float("inf")]
)
def test_bad_numbers_name_key_and_unit(value: object) -> None:
    with pytest.raises(ValueError, match=r"^cpus=.*cores"):
        settings.parse_cores("cpus", value)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (812, "812 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (2_202_010, "2.1 MiB"),
        (3 << 29, "1.5 GiB"),
        (5 << 40, "5120.0 GiB"),
    ],
)
def test_shown_sizes(size_bytes: int, text: str) -> None:
    assert settings.shown_size(size_bytes) == text


@given(st.integers(min_value=1, max_value=(1 << 63) - 1))
def test_whole_sizes_are_exact(size_bytes: int) -> None:
    assert settings.parse_size("disk", size_bytes) == size_bytes
    assert settings.parse_size("disk", str(size_bytes)) == size_bytes


@given(st.text())
def test_any_text_is_a_size_or_refused(text: str) -> None:
    refusal = ""
    size_bytes = 0
    try:
        size_bytes = settings.parse_size("disk", text)
    except ValueError as error:
        refusal = str(error)

    assert size_bytes >= 1 or refusal.startswith("disk=")
