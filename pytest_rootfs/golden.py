"""Compare changes with a golden file beside the test, or write that file.

One line a change: kind, type, mode, owner, path, target of a link, digest of a file's content. What
a deleted path was is the image's business and is left out, times are no part of it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_rootfs.errors import RootfsError
from pytest_rootfs.settings import escaped

if TYPE_CHECKING:
    from pytest_rootfs.changeset import Change

OPTION = "--rootfs-update-golden"
MAX_NAME_BYTES = 200
SHOWN_LINES = 60
_HEAD = "# written by pytest --rootfs-update-golden; kind type mode owner path"


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenFolder:
    """Where the golden files of a test module are, and whether they are to be written."""

    path: Path
    updates: bool


def line(change: Change, digest: str | None) -> str:
    """Return the line of a change; `digest` is of a file's content."""
    after: Mapping[str, Any] | None = change.after  # Any: JSON values
    path = _quoted(change.path)
    if after is None:
        return f"{change.kind:8} {change.type:7} - - {path}"
    words = [f"{change.kind:8}", f"{change.type:7}", f"{after['mode']:04o}"]
    words += [f"{after['uid']}:{after['gid']}", path]
    if after.get("target") is not None:
        words.append(f"-> {_quoted(str(after['target']))}")
    if digest is not None:
        words.append(f"sha256:{digest}")
    return " ".join(words)


def match(folder: GoldenFolder, name: str, lines: Sequence[str]) -> None:
    """Compare with the golden file, or write it; raises AssertionError with a diff."""
    __tracebackhide__ = True
    path = folder.path / f"{checked(name)}.txt"
    found = "\n".join([_HEAD, *lines]) + "\n"
    if folder.updates:
        try:
            _write(path, found)
        except OSError as error:
            raise RootfsError(
                f"cannot write the golden file {path}: {error.strerror}",
                hint=f"run pytest {OPTION} where the project's folder can be written",
            ) from error
        return
    try:
        expected = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise AssertionError(
            f"there is no golden file {path}\nwrite it with: pytest {OPTION}"
        ) from None
    if found != expected:
        diff = list(
            unified_diff(
                expected.splitlines(), found.splitlines(), "golden", "container", lineterm="", n=0
            )
        )
        shown = [each for each in diff if not each.startswith("@@")]
        if len(shown) > SHOWN_LINES:
            shown[SHOWN_LINES:] = [f"… and {len(shown) - SHOWN_LINES} more lines"]
        head = f"the changes differ from the golden file {path}"
        end = f"if they are right, write them with: pytest {OPTION}"
        raise AssertionError("\n".join([head, *shown, end]))


def checked(name: str) -> str:
    """Return the name of a golden file; raises ValueError for what could lead elsewhere."""
    __tracebackhide__ = True
    if (
        not isinstance(name, str)
        or not name.isprintable()
        or name.startswith(".")
        or {"/", "\\"} & set(name)
        or not 0 < len(name.encode()) <= MAX_NAME_BYTES
    ):
        raise ValueError(
            f"name={name!r} is not the name of a golden file: give 1 to {MAX_NAME_BYTES} bytes of "
            "printable text without slashes, that does not begin with a dot"
        )
    return name


def _quoted(path: str) -> str:
    """Return a path as one word, so that a line has one meaning."""
    return escaped(path.replace("\\", "\\\\")).replace(" ", "\\x20")


def _write(path: Path, text: str) -> None:
    """Replace a file by one rename: other workers of xdist see the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".golden-{os.getpid()}-{threading.get_ident()}")
    try:
        staged.write_text(text, encoding="utf-8")
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)
