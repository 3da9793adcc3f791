"""User namespaces and their id maps; user_namespaces(7), newuidmap(1), subuid(5)."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    IdMap = Sequence[tuple[int, int, int]]
    """Lines of a map: first id inside, first id outside, how many."""


def read_subordinate_ranges(path: str, user_name: str, user_id: int) -> list[tuple[int, int]]:
    """Return the (first id, count) ranges of a user from /etc/subuid or /etc/subgid.

    Lines may name the user or its number; a user may have several; a missing file has none.
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as lines:
            fields = [line.strip().split(":") for line in lines]
    except FileNotFoundError:
        return []
    return [
        (int(field[1]), int(field[2]))
        for field in fields
        if len(field) == 3
        and field[0] in (user_name, str(user_id))
        and field[1].isdigit()
        and field[2].isdigit()
        and int(field[2]) > 0
    ]


def map_ranges(
    ranges: Sequence[tuple[int, int]], *, first_inside: int
) -> list[tuple[int, int, int]]:
    """Lay ranges one after the other from an id inside on, up to 65536 ids in all."""
    lines = []
    for outside, size in ranges:
        count = min(size, 65536 - first_inside)
        if count > 0:
            lines.append((first_inside, outside, count))
            first_inside += count
    return lines


def write_map(path: str, lines: IdMap) -> None:
    """Write /proc/<pid>/uid_map or gid_map, in the one write(2) that the kernel allows."""
    text = "".join(f"{inside} {outside} {count}\n" for inside, outside, count in lines)
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
