"""Choose the image of this machine among those of several platforms."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any  # decoded JSON only

_PLATFORMS: dict[str, tuple[str, str]] = {
    "x86_64": ("amd64", ""),
    "i686": ("386", ""),
    "i586": ("386", ""),
    "aarch64": ("arm64", "v8"),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "loongarch64": ("loong64", ""),
}


def platform() -> dict[str, str]:
    """Return this machine as Go names it: `architecture`, `os` and, of ARM, `variant`."""
    machine = os.uname().machine
    architecture, variant = _PLATFORMS.get(machine, (machine, ""))
    found = {"architecture": architecture, "os": "linux"}
    return {**found, "variant": variant} if variant else found


def shown(wanted: Mapping[str, Any]) -> str:
    """Write a platform as everybody does: `linux/arm64/v8`."""
    names = (wanted.get("os"), wanted.get("architecture"), wanted.get("variant"))
    return "/".join(str(name) for name in names if name)


def fitness(offered: Mapping[str, Any]) -> int:
    """Return how well an image for the platform `offered` fits this machine, 0 for not at all.

    An image for an older ARM than this one runs, and one that is for exactly this one is better;
    an x86-64 level (`v2` …) is never chosen, as the processor may lack it.
    """
    ours = platform()
    if (offered.get("os"), offered.get("architecture")) != ("linux", ours["architecture"]):
        return 0
    variant = offered.get("variant") or ""
    if variant == ours.get("variant", ""):
        return 9
    if not variant:
        return 8
    if ours["architecture"] == "arm" and variant in ("v5", "v6", "v7"):
        return int(variant[1]) if variant < ours["variant"] else 0
    return 0
