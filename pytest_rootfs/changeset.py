"""What a container has changed: a mapping from path to change."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from pytest_rootfs import golden
from pytest_rootfs.globs import translate
from pytest_rootfs.golden import GoldenFolder
from pytest_rootfs.settings import escaped

Kind = Literal["added", "modified", "deleted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One path that differs from the image.

    `type` is what is there now, or was: "file", "dir", "symlink", "fifo", "char", "block",
    "socket". `before` and `after` hold mode, uid, gid, size, mtime and a symlink's target; None
    where there is nothing.
    """

    path: str
    kind: Kind
    type: str
    before: Mapping[str, Any] | None = None  # Any: JSON values
    after: Mapping[str, Any] | None = None  # Any: JSON values


class Origin(Protocol):
    """Where changes come from, for what needs more than them: the container and its test."""

    def digests(self) -> Mapping[str, str]:
        """Return the SHA-256 of the content that changed files have now."""

    def golden_folder(self) -> GoldenFolder:
        """Return where the running test keeps its golden trees; raises ContainerError."""


class Changes(Mapping[str, Change]):
    """Changes by absolute path, sorted; equal to a plain dict of path to kind."""

    def __init__(self, changes: Iterable[Change], *, origin: Origin | None = None) -> None:
        self._changes = {change.path: change for change in sorted(changes, key=lambda c: c.path)}
        self._origin = origin

    @property
    def added(self) -> list[str]:
        """Paths that the image does not have."""
        return self._of("added")

    @property
    def modified(self) -> list[str]:
        """Paths whose content or attributes differ from the image's."""
        return self._of("modified")

    @property
    def deleted(self) -> list[str]:
        """Paths that only the image has."""
        return self._of("deleted")

    def kinds(self) -> dict[str, str]:
        """Return the plain dict of path to kind that this compares equal to."""
        return {path: change.kind for path, change in self._changes.items()}

    def ignoring(self, patterns: Iterable[str]) -> Changes:
        """Return the changes whose path matches none of the globs (`**` crosses folders)."""
        rules = [re.compile(translate(pattern)) for pattern in patterns]
        kept = (c for c in self._changes.values() if not any(r.fullmatch(c.path) for r in rules))
        return Changes(kept, origin=self._origin)

    def assert_only(
        self,
        *globs: str,
        added: Iterable[str] = (),
        modified: Iterable[str] = (),
        deleted: Iterable[str] = (),
    ) -> None:
        """Assert that exactly this has changed: every path is matched, and every glob matches.

        `globs` match changes of any kind, the others those of theirs. Raises AssertionError with a
        line a path, and a line for each glob that matches nothing.
        """
        __tracebackhide__ = True
        wanted = {"": globs, "added": added, "modified": modified, "deleted": deleted}
        rules = [
            _Rule(kind, pattern)
            for kind, patterns in wanted.items()
            for pattern in ([patterns] if isinstance(patterns, str) else patterns)
        ]
        found = [
            (change, [rule for rule in rules if rule.matches(change)])
            for change in self._changes.values()
        ]
        used = {id(rule) for _, matching in found for rule in matching}
        lines = [f"unmatched   {rule}" for rule in rules if id(rule) not in used]
        lines += [
            f"unexpected  {escaped(change.path)} ({change.kind})"
            for change, matching in found
            if not matching
        ]
        if lines:
            raise AssertionError("\n".join(["the changes are not what is expected:", *lines]))

    def match_golden(self, name: str) -> None:
        """Assert that the changes are those in a golden file, `golden/<test module>/<name>.txt`.

        Kind, type, mode, owner, target and content count, times do not. The file is written by
        `pytest --rootfs-update-golden`. Content is what files have now. Raises AssertionError, and
        ValueError for a name that is none.
        """
        __tracebackhide__ = True
        if self._origin is None:
            raise ValueError("these changes are of no container: they cannot be compared")
        folder = self._origin.golden_folder()
        digests = self._origin.digests()
        lines = [golden.line(each, digests.get(each.path)) for each in self._changes.values()]
        golden.match(folder, name, lines)

    def __getitem__(self, path: str) -> Change:
        """Return the change at an absolute path."""
        return self._changes[path]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the paths, sorted."""
        return iter(self._changes)

    def __len__(self) -> int:
        """Count the changed paths."""
        return len(self._changes)

    def __eq__(self, other: object) -> bool:
        """Compare with other changes, or with a dict of path to kind."""
        if isinstance(other, Changes):
            return self._changes == other._changes
        if isinstance(other, Mapping):
            return self.kinds() == dict(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # a mapping that compares by content

    def __repr__(self) -> str:
        """Show the plain dict."""
        return f"Changes({self.kinds()!r})"

    def _of(self, kind: Kind) -> list[str]:
        return [path for path, change in self._changes.items() if change.kind == kind]


class _Rule:
    """What `assert_only` is told: a glob, for changes of one kind or ("") of any."""

    def __init__(self, kind: str, pattern: str) -> None:
        self._kind = kind
        self._pattern = pattern
        self._expression = re.compile(translate(pattern))

    def matches(self, change: Change) -> bool:
        right_kind = self._kind in ("", change.kind)
        return right_kind and self._expression.fullmatch(change.path) is not None

    def __str__(self) -> str:
        return escaped(self._pattern) + (f" ({self._kind})" if self._kind else "")
