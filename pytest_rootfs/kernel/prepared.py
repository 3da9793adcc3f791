"""System calls that are prepared in one process and made in its forks.

After a fork, the first write to each page copies it, and in this language to read is to write:
objects count who uses them. What is looked up, encoded and allocated before costs its forks
nothing.
"""

from __future__ import annotations

import os

from pytest_rootfs.kernel import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any  # the arguments of system calls are of many types

    Call = tuple[Callable[..., int], tuple[Any, ...], str, str]
    """A function whose negative result is a failure, its arguments; its name and its subject."""


def make(calls: Sequence[Call]) -> None:
    """Make the calls in turn; raises OSError for the first that fails."""
    for function, arguments, name, subject in calls:
        if function(*arguments) < 0:
            syscalls.checked(-1, name, subject)


def mount(
    source: str | None, target: str, kind: str | None, flags: int = 0, options: str | None = None
) -> Call:
    """Prepare `syscalls.mount`."""
    words = [None if word is None else os.fsencode(word) for word in (source, target, kind)]
    arguments = *words, flags, None if options is None else options.encode()
    return syscalls.raw_mount, arguments, "mount", f"{kind or source!r} on {target!r}"


def prctl(option: int, value: int) -> Call:
    """Prepare `syscalls.prctl`."""
    return syscalls.raw_prctl, (option, value, 0, 0, 0), "prctl", f"{option} {value}"


def set_name(name: str) -> Call:
    """Prepare to give this process a name of at most 15 bytes; PR_SET_NAME in prctl(2)."""
    arguments = syscalls.PR_SET_NAME, name.encode(), 0, 0, 0
    return syscalls.raw_set_name, arguments, "prctl", name


def verify(path: str, magic: int) -> Call:
    """Prepare to make sure that the file system at a path is the one that was mounted."""
    return syscalls.raw_verify, (os.fsencode(path), magic), "statfs", path
