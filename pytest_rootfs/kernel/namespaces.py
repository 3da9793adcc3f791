"""User namespaces and their id maps; user_namespaces(7)."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    IdMap = Sequence[tuple[int, int, int]]
    """Lines of a map: first id inside, first id outside, how many."""

LAST_ID = (1 << 32) - 2
"""4294967295 is (uid_t) -1, which chown(2) takes for "leave it"."""


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
