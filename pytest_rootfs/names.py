"""The public names of the package, and where each is made; `__init__.pyi` has their types.

Apart from `__init__.py`, which every pytest run compiles where it may not keep what it compiles.
"""

from __future__ import annotations

import importlib

ERRORS = (
    "ArchiveRejected",
    "BuildFailed",
    "CommandFailed",
    "CommandNotExecutable",
    "CommandNotFound",
    "CommandTimeout",
    "ContainerDied",
    "ContainerError",
    "HostUnsupported",
    "ImageError",
    "ImageNotFound",
    "LayerCorrupt",
    "LimitUnavailable",
    "RecipeError",
    "RootfsError",
)
"""The exceptions, all of `pytest_rootfs.errors`."""

HOMES = {
    **dict.fromkeys(ERRORS, "pytest_rootfs.errors"),
    "Change": "pytest_rootfs.changeset",
    "Changes": "pytest_rootfs.changeset",
    "CompletedProcess": "pytest_rootfs.runtime.endings",
    "Container": "pytest_rootfs.runtime.container",
    "ContainerPath": "pytest_rootfs.runtime.path",
    "Failure": "pytest_rootfs.failures",
    "Image": "pytest_rootfs.image",
    "Limits": "pytest_rootfs.runtime.spec",
    "Process": "pytest_rootfs.runtime.process",
    "Snapshot": "pytest_rootfs.snapshots",
    "Stats": "pytest_rootfs.runtime.stats",
}
"""The module of each public name."""


def find(name: str) -> object:
    """Return what a public name means, importing where it is made; raises `AttributeError`."""
    if name == "__all__":
        return sorted(HOMES)
    if name == "errors":
        return importlib.import_module("pytest_rootfs.errors")
    if name in HOMES:
        return getattr(importlib.import_module(HOMES[name]), name)
    raise AttributeError(f"module 'pytest_rootfs' has no attribute {name!r}")
