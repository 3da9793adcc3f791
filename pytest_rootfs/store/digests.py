"""Make digests, and check and take them apart before any of them becomes part of a path."""

from __future__ import annotations

import hashlib
import re

from pytest_rootfs.errors import ArchiveRejected

ALGORITHM = "sha256"

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


def digest_of(content: bytes) -> str:
    """Return the digest of bytes that are at hand."""
    return f"{ALGORITHM}:{hashlib.sha256(content).hexdigest()}"


def hex_of(digest: str) -> str:
    """Return the hexadecimal part of `sha256:<64 hex digits>`; anything else is refused."""
    if not is_digest(digest):
        raise ArchiveRejected(f"{digest!r} is not a digest of the form sha256:<64 hex digits>")
    return digest[len(ALGORITHM) + 1 :]


def is_digest(text: object) -> bool:
    """Tell whether `text` is a well-formed sha256 digest."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


def named_in(text: str) -> set[str]:
    """Return every digest that occurs anywhere in `text`."""
    return set(_DIGEST.findall(text))
