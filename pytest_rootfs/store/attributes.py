"""Decide which extended attributes a layer keeps, and how they are spelled on disk.

Kept: `user.*` and `security.capability`. Everything else belongs to one machine (labels,
signatures) or cannot be set in a user namespace. overlayfs reads `user.overlay.*` itself, so an
attribute of that name is stored with one more `overlay.` (overlayfs.rst, "Nesting overlayfs
mounts").
"""

from __future__ import annotations

import errno
import os

PRIVATE = b"user.overlay."
CAPABILITY = b"security.capability"

_ESCAPED = b"user.overlay.overlay."
_PRIVILEGED = b"trusted.overlay."
_V2_HEADER = 0x02000000
_V3_HEADER = 0x03000000
_REVISION_MASK = 0xFF000000


def is_kept(name: bytes) -> bool:
    """Tell whether layers carry the attribute `name` (as an archive spells it)."""
    return name.startswith(b"user.") or name == CAPABILITY


def stored_name(name: bytes) -> bytes:
    """Return how an archive's attribute is spelled in an unpacked layer."""
    return _ESCAPED + name[len(PRIVATE) :] if name.startswith(PRIVATE) else name


def drop_kept(fd: int) -> None:
    """Remove the attributes that came from a layer; overlayfs' own stay."""
    for text in _listed(fd):
        name = os.fsencode(text)
        if is_kept(name) and (name.startswith(_ESCAPED) or not name.startswith(PRIVATE)):
            os.removexattr(fd, name)


def read_all(fd: int) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
    """Return a file's attributes: those to keep, as an archive spells them, and overlayfs' own.

    The second holds names without the prefix: `opaque`, `whiteout`, `redirect`, `metacopy` ….
    """
    kept: dict[bytes, bytes] = {}
    private: dict[bytes, bytes] = {}
    for text in _listed(fd):
        name = os.fsencode(text)
        value = os.getxattr(fd, name)
        if name.startswith(_ESCAPED):
            kept[PRIVATE + name[len(_ESCAPED) :]] = value
        elif name.startswith((PRIVATE, _PRIVILEGED)):
            private[name.partition(b".overlay.")[2]] = value
        elif name == CAPABILITY:
            kept[name] = _version_2(value)
        else:
            kept[name] = value
    return kept, private


def _listed(fd: int) -> list[str]:
    try:
        return os.listxattr(fd)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return []  # a mount without attributes, such as /proc


def _version_2(value: bytes) -> bytes:
    """Drop the user namespace from a file capability: its root is the image's root.

    capabilities(7), "File capability extended attribute versioning": version 3 is version 2 and
    four more bytes, the host's id of the namespace's root.
    """
    header = int.from_bytes(value[:4], "little")
    if len(value) != 24 or header & _REVISION_MASK != _V3_HEADER:
        return value
    return (header & ~_REVISION_MASK | _V2_HEADER).to_bytes(4, "little") + value[4:20]
