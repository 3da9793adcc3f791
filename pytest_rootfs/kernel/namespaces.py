"""User namespaces and their id maps; user_namespaces(7), newuidmap(1), subuid(5)."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    IdMap = Sequence[tuple[int, int, int]]
    """Lines of a map: first id inside, first id outside, how many."""

    Range = tuple[int, int]
    """First id, how many."""

LAST_ID = (1 << 32) - 2
"""4294967295 is (uid_t) -1, which chown(2) takes for "leave it"."""


def read_subordinate_ranges(
    path: str, user_name: str, user_id: int
) -> tuple[list[Range], list[str]]:
    """Return a user's ranges from /etc/subuid or /etc/subgid, and its lines that make no range.

    Lines may name the user or its number; a user may have several; a missing file has none. The
    same lines are malformed to newuidmap, which passes over them in silence.
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.strip() for line in file]
    except FileNotFoundError:
        return [], []
    ranges, malformed = [], []
    for line in lines:
        owner, *numbers = line.split(":")
        if owner not in (user_name, str(user_id)):
            continue
        if (found := _range(numbers)) is not None:
            ranges.append(found)
        else:
            malformed.append(line)
    return ranges, malformed


def _range(numbers: Sequence[str]) -> Range | None:
    if len(numbers) != 2 or not all(text.isascii() and text.isdigit() for text in numbers):
        return None
    first, count = int(numbers[0][:20]), int(numbers[1][:20])
    return (first, count) if 0 < count <= LAST_ID - first + 1 else None


def map_ranges(ranges: Sequence[Range], *, first_inside: int) -> list[tuple[int, int, int]]:
    """Lay ranges one after the other from an id inside on, up to 65536 ids in all.

    The kernel takes no id twice, so what an earlier range has is left out of a later one. Ranges
    that touch stay apart: newuidmap wants every line inside of one range of the file.
    """
    lines: list[tuple[int, int, int]] = []
    for outside, size in _without_overlaps(ranges):
        count = min(size, 65536 - first_inside)
        if count > 0:
            lines.append((first_inside, outside, count))
            first_inside += count
    return lines


def _without_overlaps(ranges: Sequence[Range]) -> list[Range]:
    kept: list[Range] = []
    for given in ranges:
        pieces = [given]
        for taken in kept:
            pieces = [part for piece in pieces for part in _minus(piece, taken)]
        kept += pieces
    return kept


def _minus(piece: Range, taken: Range) -> list[Range]:
    """Return what remains of a range: up to two ranges, before and after the one taken out."""
    first, end = piece[0], sum(piece)
    before = (first, min(end, taken[0]) - first)
    behind = (max(first, sum(taken)), end - max(first, sum(taken)))
    return [part for part in (before, behind) if part[1] > 0]


def map_text(lines: IdMap) -> str:
    """Return what is written into uid_map or gid_map; user_namespaces(7)."""
    return "".join(f"{inside} {outside} {count}\n" for inside, outside, count in lines)


def write_map(path: str, lines: IdMap) -> None:
    """Write /proc/<pid>/uid_map or gid_map."""
    write_map_text(path, map_text(lines))


def write_map_text(path: str, text: str) -> None:
    """Write what `map_text` has returned, in the one write(2) that the kernel allows."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"write {path}: {text.strip()}") from None
    finally:
        os.close(fd)


def deny_setgroups(pid: int) -> None:
    """Forbid setgroups(2) in the namespace, which an unprivileged gid_map needs."""
    fd = os.open(f"/proc/{pid}/setgroups", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, b"deny")
    finally:
        os.close(fd)
