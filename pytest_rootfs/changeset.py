"""What a container has changed: a mapping from path to change."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

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


class Changes(Mapping[str, Change]):
    """Changes by absolute path, sorted; equal to a plain dict of path to kind."""

    def __init__(self, changes: Iterable[Change]) -> None:
        self._changes = {change.path: change for change in sorted(changes, key=lambda c: c.path)}

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
        return Changes(kept)

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


def translate(pattern: str) -> str:
    """Return the regular expression of a path glob: `*` and `?` stop at `/`, `**` does not.

    `dir/**` matches everything below `dir`, not `dir` itself.
    """
    expression = ""
    position = 0
    while position < len(pattern):
        if pattern.startswith("**/", position):
            expression += "(?:.*/)?"
            position += 3
        elif pattern.startswith("**", position):
            expression += ".*"
            position += 2
        elif pattern[position] == "*":
            expression += "[^/]*"
            position += 1
        elif pattern[position] == "?":
            expression += "[^/]"
            position += 1
        elif pattern[position] == "[" and (end := pattern.find("]", position + 2)) > 0:
            expression += _one_of(pattern[position + 1 : end])
            position = end + 1
        else:
            expression += re.escape(pattern[position])
            position += 1
    return f"(?s:{expression})"


def _one_of(choice: str) -> str:
    """Return the expression for what stands in brackets; it never matches a slash."""
    sign = "^" if choice[0] == "!" else ""
    escaped = re.sub(r"([\\\[\]^&~|])", r"\\\1", choice.removeprefix("!"))
    try:
        re.compile(f"[{sign}{escaped}]")
    except re.error:  # a range that runs backwards
        return re.escape(f"[{choice}]")
    return f"(?!/)[{sign}{escaped}]"
