"""Describe images: immutable recipes, and how their content is found on this host.

Nothing here writes to a store or starts a container: `pytest_rootfs.builder` does.
"""

from __future__ import annotations

from pytest_rootfs.image.description import Image

__all__ = ["Image"]
