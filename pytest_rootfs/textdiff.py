"""Show how a text file differs, as `diff -u` does, in a time that is bounded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import unified_diff

LARGEST_BYTES = 64 << 20
"""Larger files are not read, so that a sparse one of a terabyte takes no memory."""
_COMPARED_LINES = 20_000
"""More differing lines than this are not compared with others: difflib's time is quadratic."""
_LINE = re.compile(rb"[^\n]*\n|[^\n]+")  # splitlines() would split at carriage returns, too


@dataclass(frozen=True, slots=True, eq=False)
class TooLarge:
    """In place of the content of a file that is not read; equal only to itself."""

    size: int


def unified(path: str, before: bytes | TooLarge | None, after: bytes | TooLarge | None) -> str:
    """Return the unified diff of two contents of an absolute path; None is a missing file.

    Empty when they are the same; one line for binary files, which hold a null byte or differ in
    nothing that can be shown, and for files of more than 64 MiB.
    """
    if before == after:
        return ""
    if isinstance(before, TooLarge) or isinstance(after, TooLarge):
        return f"{path} is too large to compare: {_size(before)} -> {_size(after)} bytes\n"
    old, new = before or b"", after or b""
    looks_same = old.decode(errors="replace") == new.decode(errors="replace")
    is_known = before is not None and after is not None  # an empty file that is new has a diff, too
    if b"\0" in old or b"\0" in new or (looks_same and is_known):
        return f"Binary files a{path} and b{path} differ\n"
    name = path.encode(errors="surrogateescape")
    old_name = b"/dev/null" if before is None else b"a" + name
    new_name = b"/dev/null" if after is None else b"b" + name
    lines = unified_lines(old, new, old_name, new_name)
    return b"".join(line + b"\n" for line in lines).decode(errors="replace")


def _size(content: bytes | TooLarge | None) -> int:
    return content.size if isinstance(content, TooLarge) else len(content or b"")


def unified_lines(before: bytes, after: bytes, old_name: bytes, new_name: bytes) -> Iterator[bytes]:
    """Write a unified diff of two texts, as lines without their ends; none when they are the same.

    Equal beginnings and ends are put aside first, so that a small change in a large file is cheap.
    """
    old, new = _LINE.findall(before), _LINE.findall(after)
    start = _common(old, new)
    end = _common(old[start:][::-1], new[start:][::-1])
    shorter, longer = (sized - start - end for sized in sorted((len(old), len(new))))
    if shorter and longer > _COMPARED_LINES:
        yield b"--- " + old_name
        yield b"+++ " + new_name
        yield b"too many lines differ to compare: %d -> %d lines" % (len(old), len(new))
        return
    first, last = max(start - 3, 0), max(end - 3, 0)
    texts = [
        [line.decode("latin-1") for line in lines[first : len(lines) - last]]
        for lines in (old, new)
    ]
    lines = unified_diff(texts[0], texts[1], old_name.decode("latin-1"), new_name.decode("latin-1"))
    for line in lines:
        yield from _finished(_moved(line, first).encode("latin-1"))


def _common(left: list[bytes], right: list[bytes]) -> int:
    pairs = enumerate(zip(left, right, strict=False))
    return next((index for index, (one, two) in pairs if one != two), min(len(left), len(right)))


def _moved(line: str, offset: int) -> str:
    """Shift the line numbers of a hunk header by what was put aside before it."""
    if not offset or not line.startswith("@@ "):
        return line
    _, old, new, tail = line.split(" ", 3)
    return f"@@ {_shifted(old, offset)} {_shifted(new, offset)} {tail}"


def _shifted(span: str, offset: int) -> str:
    start, comma, count = span[1:].partition(",")
    return f"{span[0]}{int(start) + offset}{comma}{count}"


def _finished(line: bytes) -> Iterator[bytes]:
    if line.endswith(b"\n"):
        yield line[:-1]
        return
    yield line
    if not line.startswith(b"@@"):
        yield b"\\ No newline at end of file"
