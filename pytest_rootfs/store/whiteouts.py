"""Mark a name of a layer as deleted, in one of the two forms that an overlay knows.

The device 0:0, or an empty file with an attribute in a folder with one (overlayfs.rst, "Whiteouts
and opaque directories"). The second is for stores that lie on an overlay themselves, as in a docker
container: it keeps the first for itself (EPERM), and the second is known since Linux 6.7.
"""

from __future__ import annotations

import errno
import os
import stat

WHITEOUT = "user.overlay.whiteout"
OPAQUE = "user.overlay.opaque"
HAS_WHITEOUTS = b"x"
SINCE = (6, 7)


def make_whiteout(name: bytes, folder_fd: int) -> None:
    """Make a whiteout; raises FileExistsError where the layer has the name."""
    try:
        # The kernel lets everybody make this one device node since Linux 5.8.
        os.mknod(name, stat.S_IFCHR, 0, dir_fd=folder_fd)
    except PermissionError:
        if _kernel() < SINCE:
            raise OSError(errno.EPERM, "an overlay takes none before Linux 6.7", name) from None
        _make_file(name, folder_fd)


def _make_file(name: bytes, folder_fd: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    file_fd = os.open(name, flags, 0o600, dir_fd=folder_fd)
    try:
        os.setxattr(file_fd, WHITEOUT, b"y")
    finally:
        os.close(file_fd)
    try:
        os.setxattr(folder_fd, OPAQUE, HAS_WHITEOUTS, os.XATTR_CREATE)
    except FileExistsError:
        pass  # it has others already, or is opaque and needs none


def _kernel() -> tuple[int, int]:
    major, minor = os.uname().release.partition("-")[0].split(".")[:2]
    return int(major), int(minor)
