"""Read whole files of proc and its like, and what they tell of processes and mounts; proc(5)."""

from __future__ import annotations

import os

_ESCAPES = {"\\040": " ", "\\011": "\t", "\\012": "\n", "\\134": "\\"}


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


def children() -> list[int]:
    """Return the children of this process, which has one thread; none where proc does not tell."""
    try:
        return [int(pid) for pid in read_text(f"/proc/self/task/{os.getpid()}/children").split()]
    except FileNotFoundError:
        return []  # a kernel without CONFIG_PROC_CHILDREN


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


def mount_points_below(path: str) -> list[str]:
    """Return the mount points below a folder, by name; the path has no symlinks.

    Source: proc_pid_mountinfo(5).
    """
    lines = read_text("/proc/self/mountinfo").splitlines()
    places = {unescaped(line.split(" ")[4]) for line in lines}
    return sorted(
        place for place in places if place.startswith(f"{path.rstrip('/')}/") and place != path
    )


def unescaped(text: str) -> str:
    """Return a path as it is for what the kernel writes in mountinfo and mounts, fstab(5)."""
    for escape, character in _ESCAPES.items():
        text = text.replace(escape, character)
    return text
