"""Give every test its own Linux container, without Docker, a daemon or root.

Public names (`names.py`) are resolved on first use, so that importing the package costs nothing:
the spawner and every suite that uses no container import it too. `__init__.pyi` has their types.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # importing `typing` costs milliseconds, and checkers know the bare name
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec


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
        if not name.startswith("pytest_rootfs."):
            return None
        from importlib.machinery import PathFinder  # noqa: PLC0415  pytest has it imported

        return PathFinder.find_spec(name, path) or _PlainModules._find_mapped(name, path)

    @staticmethod
    def _find_mapped(name: str, path: Sequence[str] | None) -> ModuleSpec | None:
        """Find what lies elsewhere, as `fixtures` does when the project is installed editable."""
        for finder in sys.meta_path:
            if finder is _PlainModules or type(finder).__module__.startswith("_pytest."):
                continue
            # finders of before Python 3.4 have none
            find = getattr(finder, "find_spec", None)
            if find is not None and (spec := find(name, path)) is not None:
                return spec
        return None

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
    from pytest_rootfs.names import HOMES  # noqa: PLC0415  somebody looks around

    return [*globals(), *HOMES, "errors"]


def __getattr__(name: str) -> object:
    if name[:1].isupper() or name in ("errors", "__all__"):
        from pytest_rootfs.names import find  # noqa: PLC0415  keeps the package free of imports

        return find(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
