"""Open folders below one folder by relative names, without ever following a link."""

from __future__ import annotations

import os

from pytest_rootfs.store.entries import ROOT

FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Folders:
    """A tree whose last opened folder stays open, because archives mostly stay in one.

    Two descriptors, whatever the depth.
    """

    def __init__(self, top_fd: int) -> None:
        self._top_fd = os.open(".", FLAGS, dir_fd=top_fd)
        self._name = ROOT
        self._fd = self._top_fd

    def open(self, name: bytes) -> int:
        """Return a descriptor of the folder `name`, valid until the next call.

        Raises FileNotFoundError, or NotADirectoryError for a link as for any other file.
        """
        if name == self._name:
            return self._fd
        if name == ROOT:
            return self._top_fd
        start_fd, rest = self._top_fd, name
        if self._name != ROOT and name.startswith(self._name + b"/"):
            start_fd, rest = self._fd, name[len(self._name) + 1 :]
        found_fd = _walk(start_fd, rest.split(b"/"))
        self._forget()
        self._name, self._fd = name, found_fd
        return found_fd

    def forget(self, name: bytes) -> None:
        """Expect that the folder `name` is replaced: what was open there is not it any more."""
        if self._name == name or self._name.startswith(name + b"/"):
            self._forget()

    def close(self) -> None:
        """Close both descriptors."""
        self._forget()
        os.close(self._top_fd)

    def _forget(self) -> None:
        if self._fd != self._top_fd:
            os.close(self._fd)
        self._name, self._fd = ROOT, self._top_fd


def _walk(start_fd: int, parts: list[bytes]) -> int:
    fd = start_fd
    for part in parts:
        try:
            next_fd = os.open(part, FLAGS, dir_fd=fd)
        finally:
            if fd != start_fd:
                os.close(fd)
        fd = next_fd
    return fd
