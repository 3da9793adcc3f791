"""The part of a container's path that asks nobody: its names, parents and comparison."""

from __future__ import annotations

import functools
import os
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from pytest_rootfs.runtime.gaps import Gap
from pytest_rootfs.runtime.protocol import Message

if TYPE_CHECKING:
    from typing_extensions import Self


class Reach(Protocol):
    """What a path needs of its container's init."""

    def ask_with_fds(self, message: Message) -> tuple[Message, list[int]]:
        """Return the answer; raises OSError as the kernel gave it, ContainerDied."""

    def space_note(self, path: str) -> str:
        """Return which limit leaves no room at a path."""

    @property
    def id_gap(self) -> Gap:
        """Why some ids do not exist in the container; empty when all 65536 do."""


@functools.total_ordering
class PathNames:
    """A path in a container, as `pathlib.PurePosixPath` sees it."""

    def __init__(self, reach: Reach, path: AnyPath) -> None:
        self._reach = reach
        self._path = PurePosixPath(text_of(path))

    def __truediv__(self, other: AnyPath) -> Self:
        """Return the path of something inside this folder."""
        return self._at(self._path / text_of(other))

    def joinpath(self, *others: AnyPath) -> Self:
        """Return the path with more components."""
        return self._at(self._path.joinpath(*map(text_of, others)))

    @property
    def name(self) -> str:
        """The last component."""
        return self._path.name

    @property
    def suffix(self) -> str:
        """The last component's extension, with its dot."""
        return self._path.suffix

    @property
    def suffixes(self) -> list[str]:
        """All extensions of the last component."""
        return self._path.suffixes

    @property
    def stem(self) -> str:
        """The last component without its extension."""
        return self._path.stem

    @property
    def parts(self) -> tuple[str, ...]:
        """The components."""
        return self._path.parts

    @property
    def parent(self) -> Self:
        """The folder that the path is in."""
        return self._at(self._path.parent)

    @property
    def parents(self) -> tuple[Self, ...]:
        """All folders above, nearest first."""
        return tuple(self._at(parent) for parent in self._path.parents)

    def with_name(self, name: str) -> Self:
        """Return the path with another last component."""
        return self._at(self._path.with_name(name))

    def with_stem(self, stem: str) -> Self:
        """Return the path with another last component, its extension kept."""
        return self._at(self._path.with_stem(stem))

    def with_suffix(self, suffix: str) -> Self:
        """Return the path with another extension."""
        return self._at(self._path.with_suffix(suffix))

    def relative_to(self, other: AnyPath) -> PurePosixPath:
        """Return how the path goes on from another one; raises ValueError if it is not below."""
        return self._path.relative_to(text_of(other))

    def is_relative_to(self, other: AnyPath) -> bool:
        """Tell whether the path is another one or below it."""
        return self._path.is_relative_to(text_of(other))

    def is_absolute(self) -> bool:
        """Tell whether the path begins at the root; what `readlink` returns may not."""
        return self._path.is_absolute()

    def match(self, pattern: str) -> bool:
        """Tell whether the path matches a glob, from its end."""
        return self._path.match(pattern)

    def as_posix(self) -> str:
        """Return the path as text."""
        return str(self._path)

    def __str__(self) -> str:
        """Return the path as text."""
        return str(self._path)

    def __fspath__(self) -> NoReturn:
        """Refuse: `open` and its like would take it for a path of the host."""
        raise TypeError(
            f"{self} is a path of a container: use its own methods, str() of it in a command, or "
            "container.copy_out"
        )

    def __repr__(self) -> str:
        """Return the path as it would be made."""
        return f"{type(self).__name__}({str(self._path)!r})"

    def __eq__(self, other: object) -> bool:
        """Compare with a path of the same container."""
        if not isinstance(other, PathNames):
            return NotImplemented
        return self._path == other._path and self._reach is other._reach

    def __lt__(self, other: object) -> bool:
        """Order as pathlib does."""
        if not isinstance(other, PathNames):
            return NotImplemented
        return self._path < other._path

    def __hash__(self) -> int:
        """Hash by path."""
        return hash(self._path)

    def _at(self, path: PurePosixPath | str) -> Self:
        return type(self)(self._reach, path)


AnyPath = str | os.PathLike[Any] | PathNames  # Any: a PathLike may give bytes, too


def text_of(path: AnyPath) -> str:
    """Return a path as text; one of a container is that of its own container."""
    return str(path) if isinstance(path, PathNames) else os.fsdecode(path)


def absolute(path: AnyPath, workdir: str) -> str:
    """Return a path as the container sees it, from its working directory when it is relative."""
    return os.path.join(workdir, text_of(path))
