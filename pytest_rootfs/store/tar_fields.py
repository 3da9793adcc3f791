"""Decode the fields of archive headers: numbers, strings and pax records, or refuse them."""

from __future__ import annotations

import re

from pytest_rootfs.errors import ArchiveRejected
from pytest_rootfs.store.entries import shown

SPARSE_KEYS = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
"""The only keys that one header may repeat, by GNU tar's sparse format 0.0; joined by commas."""

_OCTAL = re.compile(rb" *([0-7]*)[ \0]*", re.ASCII)
_DECIMAL = re.compile(rb"(-?\d{1,20})(?:\.(\d*))?", re.ASCII)


def text(field: bytes) -> bytes:
    """Return a string field up to its NUL, if it has one."""
    return field.partition(b"\0")[0]


def number(field: bytes, name: str) -> int:
    """Return a number: octal digits, or GNU's base-256 when the first byte has its top bit set."""
    if field[0] & 0x80:
        width = len(field) * 8
        value = int.from_bytes(field, "big")
        # 0x80 marks a positive number; 0xff starts a negative one, in two's complement.
        return value - (1 << width) if field[0] & 0x40 else value & ((1 << (width - 1)) - 1)
    match = _OCTAL.fullmatch(field)
    if match is None:
        raise ArchiveRejected(f"its {name} is not a number")
    return int(match[1] or b"0", 8)


def whole_number(value: bytes, name: str) -> int:
    """Return a decimal number of a pax record; a fraction (of a second) is rounded down."""
    match = _DECIMAL.fullmatch(value)
    if match is None:
        raise ArchiveRejected(f"its {name} {shown(value)} is not a number")
    if match[2] is not None and name != "mtime":
        raise ArchiveRejected(f"its {name} {shown(value)} is not a whole number")
    below_zero = value.startswith(b"-") and bool((match[2] or b"").strip(b"0"))
    return int(match[1]) - below_zero


def extended_records(body: bytes) -> dict[bytes, bytes]:
    r"""Return the records of a pax extended header: `LENGTH key=value\n`, each exactly LENGTH."""
    records: dict[bytes, bytes] = {}
    at = 0
    while at < len(body):
        blank = body.find(b" ", at, at + 8)
        digits = body[at:blank] if blank > 0 else b""
        if not digits.isdigit() or digits.startswith(b"0"):
            raise ArchiveRejected("a record of an extended header has no length")
        end = at + int(digits)
        key, equals, value = body[blank + 1 : end - 1].partition(b"=")
        if end > len(body) or end <= blank + 1 or body[end - 1 : end] != b"\n" or not equals:
            raise ArchiveRejected("a record of an extended header lies about its length")
        if key in SPARSE_KEYS and key in records:
            value = records.pop(key) + b"," + value
        _check_record(records, key, value)
        records[key] = value
        at = end
    return records


def _check_record(records: dict[bytes, bytes], key: bytes, value: bytes) -> None:
    if key in records:
        raise ArchiveRejected(f"an extended header sets {shown(key)} twice")
    if key in (b"path", b"linkpath") and b"\0" in value:
        raise ArchiveRejected(f"a NUL byte in the extended header's {shown(key)}")
    if not key or b"\0" in key:
        raise ArchiveRejected("a record of an extended header has no proper key")
