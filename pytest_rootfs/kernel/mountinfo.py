"""Read proc_pid_mountinfo(5)."""

from __future__ import annotations

from pytest_rootfs.kernel.proc_files import read_text

_ESCAPES = {"\\040": " ", "\\011": "\t", "\\012": "\n", "\\134": "\\"}


def places_below(path: str) -> list[str]:
    """Return the mount points below a folder, by name; the path has no symlinks."""
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
