"""Give every test its own Linux container, without Docker, a daemon or root.

Names are resolved on first use, so that importing the package costs nothing: the spawner and
every suite that uses no container import it too.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # importing `typing` costs milliseconds, and checkers know the bare name
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec

    from pytest_rootfs.changeset import Change, Changes
    from pytest_rootfs.errors import (
        ArchiveRejected,
        BuildFailed,
        CommandFailed,
        CommandNotExecutable,
        CommandNotFound,
        CommandTimeout,
        ContainerDied,
        ContainerError,
        HostUnsupported,
        ImageError,
        ImageNotFound,
        LayerCorrupt,
        LimitUnavailable,
        RecipeError,
        RootfsError,
    )
    from pytest_rootfs.failures import Failure
    from pytest_rootfs.image import Image
    from pytest_rootfs.runtime.container import Container
    from pytest_rootfs.runtime.endings import CompletedProcess
    from pytest_rootfs.runtime.path import ContainerPath
    from pytest_rootfs.runtime.process import Process
    from pytest_rootfs.runtime.spec import Limits
    from pytest_rootfs.runtime.stats import Stats
    from pytest_rootfs.snapshots import Snapshot

_HOMES = {
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

__all__ = [
    "ArchiveRejected",
    "BuildFailed",
    "Change",
    "Changes",
    "CommandFailed",
    "CommandNotExecutable",
    "CommandNotFound",
    "CommandTimeout",
    "CompletedProcess",
    "Container",
    "ContainerDied",
    "ContainerError",
    "ContainerPath",
    "Failure",
    "HostUnsupported",
    "Image",
    "ImageError",
    "ImageNotFound",
    "LayerCorrupt",
    "LimitUnavailable",
    "Limits",
    "Process",
    "RecipeError",
    "RootfsError",
    "Snapshot",
    "Stats",
]

ERRORS = tuple(name for name in __all__ if name not in _HOMES)
"""The exceptions, all of `pytest_rootfs.errors`."""


class _PlainModules:
    """Finds our modules before pytest does, which rewrites the asserts of all that is a plugin's.

    We have none to rewrite, and an import takes it twice the time: it reads each source as well,
    and compiles it in every run where it may not keep the result, as in root's site-packages.
    """

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None, _target: object = None
    ) -> ModuleSpec | None:
        """Find a module of this package; others are for those who come next."""
        from importlib.machinery import PathFinder  # noqa: PLC0415  pytest has it imported

        return PathFinder.find_spec(name, path) if name.startswith("pytest_rootfs.") else None

    @classmethod
    def leave(cls) -> None:
        """Find no more: what a finder holds on to makes the interpreter's end 1 ms longer."""
        if cls in sys.meta_path:
            sys.meta_path.remove(cls)


if "pytest" in sys.modules:
    import atexit  # pytest has it imported

    sys.meta_path.insert(0, _PlainModules)
    atexit.register(_PlainModules.leave)


def __dir__() -> list[str]:
    return [*globals(), *__all__, "errors"]


def __getattr__(name: str) -> object:
    import importlib  # noqa: PLC0415  keeps `import pytest_rootfs` free of imports

    if name == "errors":
        return importlib.import_module("pytest_rootfs.errors")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in ERRORS:
        return getattr(importlib.import_module("pytest_rootfs.errors"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
