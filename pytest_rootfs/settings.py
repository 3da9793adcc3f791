"""Parse the values that people type, write those that they read; constants of every container.

Bad values raise `ValueError` with one sentence that names the key, the value and the accepted
form; who asked (an option, a mark, a recipe) turns it into its own kind of error.
"""

from __future__ import annotations

import re
from collections.abc import Callable

SOURCE_DATE_EPOCH = 315532800
"""1980-01-01T00:00:00Z: the newest mtime in any built layer, and what programs inside are told."""

DEFAULT_PIDS = 1024
MAX_PIDS = (1 << 22) - 1
"""PID_MAX_LIMIT of linux/threads.h, less the container's init."""

DEFAULT_DISK_BYTES = 1 << 30
DEFAULT_TIMEOUT_S = 300.0

SECRET_ENV = ("*TOKEN*", "*PASSWORD*", "*SECRET*", "*_KEY", "*CREDENTIAL*")
"""Globs of the environment variables that hold secrets, unless the user says otherwise."""

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = r"(?ia)(\d{1,20}(?:\.\d{1,20})?)\s*(?:([KMGT])(?:i?B)?|B)?"  # compiled on first use


def parse_size(key: str, value: object) -> int:
    """Return a size in bytes from an int or from a string with a binary unit ("64M", "1.5G").

    Raises `ValueError` naming `key` for zero, negative or unparsable values.
    """
    size: float | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif isinstance(value, str) and (match := re.fullmatch(_SIZE, value.strip())):
        number = float(match[1]) if "." in match[1] else int(match[1])
        size = number * _UNITS[(match[2] or "").upper()]
    if size is None:
        raise ValueError(
            f"{key}={value!r} is not a size: give bytes, or a number with a binary unit "
            'such as "64M", "1.5G" or "512KiB"'
        )
    if not 1 <= size < 1 << 63:
        raise ValueError(f"{key}={value!r} is out of range: a size is at least 1 byte, below 8 EiB")
    return int(size)


def parse_count(key: str, value: object) -> int:
    """Return a positive whole number, from an int or its digits."""
    if isinstance(value, str) and re.fullmatch(r"\d{1,18}", value.strip(), re.ASCII):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{key}={value!r} is not a count: give a whole number of at least 1")
    return value


def parse_pids(key: str, value: object) -> int:
    """Return a number of processes, as `parse_count` does, that a kernel can be told."""
    count = parse_count(key, value)
    if count > MAX_PIDS:
        raise ValueError(f"{key}={value!r} is out of range: Linux has at most {MAX_PIDS} processes")
    return count


def parse_seconds(key: str, value: object) -> float:
    """Return a time above zero and finite, from a number or a string."""
    return _parse_positive(key, value, unit="seconds")


def parse_cores(key: str, value: object) -> float:
    """Return a number of processor cores above zero and finite, from a number or a string."""
    return _parse_positive(key, value, unit="cores")


LIMIT_PARSERS: dict[str, Callable[[str, object], float]] = {
    "memory": parse_size,
    "cpus": parse_cores,
    "pids": parse_pids,
    "disk": parse_size,
    "timeout": parse_seconds,
}
"""The limits of a container, which the command line, the ini file and the mark take alike."""


def _parse_positive(key: str, value: object, *, unit: str) -> float:
    number: float | None = None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        number = float(value)
    elif isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            number = None
    if number is None or not 0 < number < float("inf"):
        raise ValueError(f"{key}={value!r} is not a number of {unit} above zero")
    return number


def shown_size(size_bytes: float) -> str:
    """Write a size for a person: `812 B`, `2.1 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024 or unit == "GiB":
            break
        size_bytes /= 1024
    return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"


def short_digest(digest: str) -> str:
    """Write a digest for a person, as Docker does: `sha256:` and twelve digits."""
    return digest[: len("sha256:") + 12]


def escaped(text: str) -> str:
    r"""Return one line of text with every unprintable character shown as an escape (`\x1b`)."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char == "\t" else ascii(char)[1:-1] for char in text
    )
