"""Read whole files of proc and its like, and what they tell of a process; proc(5)."""

from __future__ import annotations

import os


def read_text(path: str) -> str:
    """Return the whole file."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return read_all(fd)
    finally:
        os.close(fd)


def read_all(fd: int) -> str:
    """Return what is left to read."""
    chunks = []
    while chunk := os.read(fd, 65536):
        chunks.append(chunk)
    return os.fsdecode(b"".join(chunks))


def stat_fields(pid: int) -> list[str]:
    """Return /proc/PID/stat from field 3, the state, on; nothing for a process that is gone."""
    try:
        return read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def start_time(pid: int) -> str | None:
    """Return field 22 of /proc/PID/stat (proc(5)); None for a process that is gone or a zombie."""
    fields = stat_fields(pid)
    return None if not fields or fields[0] in ("Z", "X") else fields[19]
