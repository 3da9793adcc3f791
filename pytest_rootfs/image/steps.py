"""Hold the steps of an image as data: checked once when made, hashable, and with a canonical form.

Two equal steps on equal parents make the same layer. Where a source lies on the host is part of a
step, but never of the layer's identity.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Literal, Union

from pytest_rootfs.errors import RecipeError

Canonical = dict[str, object]
Part = Literal["all", "libraries", "programs"]
ConfigKey = Literal["env", "workdir", "user", "entrypoint", "label"]

_OCTAL = re.compile(r"(0o)?[0-7]{1,5}")

LARGEST_ID = 65535
"""Containers have the ids 0 to 65535, whoever runs them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyStep:
    """Copy a file or the contents of a folder of the host; `source` is absolute."""

    source: str
    target: str
    mode: int | None = None
    owner: tuple[int, int] = (0, 0)
    ignore: tuple[str, ...] = ()
    keeps_modes: bool = False

    verb = "copy"

    def canonical(self) -> Canonical:
        """Return what decides the layer, next to the content: not where the source lies."""
        return {"verb": self.verb, "target": self.target}

    def shown(self) -> str:
        """Write the step for the history of the image; the same on every host."""
        return f"copy → {self.target}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileStep:
    """Write one file whose content is in the recipe."""

    path: str
    content: bytes
    mode: int = 0o644
    owner: tuple[int, int] = (0, 0)

    verb = "file"

    def canonical(self) -> Canonical:
        """Return what decides the layer."""
        return {
            "verb": self.verb,
            "path": self.path,
            "sha256": hashlib.sha256(self.content).hexdigest(),
            "mode": self.mode,
            "owner": list(self.owner),
        }

    def shown(self) -> str:
        """Write the step for the history of the image."""
        return f"file {self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStep:
    """Run a command in a container of the image so far, and keep what it changed as a layer.

    A string is run by the image's `/bin/sh -c`, a tuple as it is.
    """

    command: str | tuple[str, ...]
    network: bool = False

    verb = "run"

    def canonical(self) -> Canonical:
        """Return what decides the layer, next to the image so far and its config."""
        command = self.command if isinstance(self.command, str) else list(self.command)
        return {"verb": self.verb, "command": command, "network": self.network}

    def shown(self) -> str:
        """Write the step for the history of the image."""
        return f"run {self.command if isinstance(self.command, str) else ' '.join(self.command)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramsStep:
    """Copy programs of the host, the libraries they need, or both.

    A name without a slash is looked up in the host's program folders and lands in `/usr/bin`.
    What is `optional` and absent or unreadable is left out, and the reason recorded.
    """

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    part: Part = "all"

    verb = "add_binary"

    def canonical(self) -> Canonical:
        """Return what decides the layer, next to the content."""
        return {
            "verb": self.verb,
            "required": list(self.required),
            "optional": list(self.optional),
            "part": self.part,
        }

    def shown(self) -> str:
        """Write the step for the history of the image."""
        what = {"all": "", "libraries": "libraries of ", "programs": "programs "}[self.part]
        return f"add_binary {what}{' '.join((*self.required, *self.optional))}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AppletsStep:
    """Copy one static multi-call program and link all its applets to it."""

    program: str

    verb = "applets_of"

    def canonical(self) -> Canonical:
        """Return what decides the layer, next to the content."""
        return {"verb": self.verb, "program": self.program}

    def shown(self) -> str:
        """Write the step for the history of the image."""
        return f"applets_of {self.program}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayoutStep:
    """Lay out the folders, links and account files that every Linux program expects."""

    kind: Literal["merged-usr"] = "merged-usr"

    verb = "layout"

    def canonical(self) -> Canonical:
        """Return what decides the layer, next to the content."""
        return {"verb": self.verb, "kind": self.kind}

    def shown(self) -> str:
        """Write the step for the history of the image."""
        return f"layout {self.kind}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigStep:
    """Change the image's config; makes no layer."""

    key: ConfigKey
    words: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()

    @property
    def verb(self) -> str:
        """Return the verb under which recipes know this step."""
        return self.key

    def canonical(self) -> Canonical:
        """Return what decides the config."""
        return {"verb": self.key, "words": list(self.words), "pairs": [list(p) for p in self.pairs]}

    def shown(self) -> str:
        """Write the step for the history of the image."""
        return " ".join((self.key, *self.words, *(f"{key}={value}" for key, value in self.pairs)))


# `X | Y` between classes at run time would do on 3.10; a checker needs the explicit alias there.
ContentStep = Union[CopyStep, FileStep, ProgramsStep, AppletsStep, LayoutStep]  # noqa: UP007
Step = Union[ContentStep, RunStep, ConfigStep]  # noqa: UP007


def checked_path(verb: str, key: str, value: object, *, is_folder_allowed: bool = False) -> str:
    """Return a path in the image as it is written, or say what is wrong with it.

    It is absolute, has no `..`, no NUL, no component above 255 bytes or named like a whiteout.
    """
    if not isinstance(value, str):
        raise RecipeError(f"{verb}: {key}={value!r} is not a path: give a string")
    parts = value.split("/")
    reason = ""
    if not value.startswith("/"):
        reason = "is not absolute"
    elif "\0" in value:
        reason = "holds a NUL byte"
    elif ".." in parts:
        reason = "holds `..`"
    elif any(len(part.encode(errors="surrogateescape")) > 255 for part in parts):
        reason = "has a component of more than 255 bytes"
    elif any(part.startswith(".wh.") for part in parts):
        reason = "has a component that starts with `.wh.`, which layers use for deleted files"
    elif not is_folder_allowed and (parts[-1] in ("", ".")):
        reason = "names a folder, not a file"
    if reason:
        raise RecipeError(
            f"{verb}: {key}={value!r} {reason}",
            hint="write the full path of the target in the image, such as /opt/app/tool",
        )
    return value


def checked_mode(verb: str, value: object) -> int | None:
    """Return permission bits from an int or from octal digits in a string."""
    if value is None:
        return None
    mode = int(value, 8) if isinstance(value, str) and _OCTAL.fullmatch(value) else value
    if isinstance(mode, bool) or not isinstance(mode, int) or not 0 <= mode <= 0o7777:
        raise RecipeError(
            f"{verb}: mode={value!r} is not a file mode",
            hint='give it in octal: mode=0o755 in Python, mode = "755" or 0o755 in TOML',
        )
    return mode


def checked_owner(verb: str, value: object) -> tuple[int, int]:
    """Return user and group id from `1000`, `"1000"`, `"1000:100"` or `(1000, 100)`.

    A user id alone is taken for the group too, as in a Containerfile.
    """
    if value is None:
        return (0, 0)
    words: list[object]
    if isinstance(value, str):
        words = [0 if word == "root" else word for word in value.split(":")]
    elif isinstance(value, (tuple, list)):
        words = list(value)
    else:
        words = [value]
    try:
        ids = [int(str(word), 10) for word in words if not isinstance(word, (bool, float))]
    except ValueError:
        ids = []
    if (
        len(ids) != len(words)
        or len(ids) not in (1, 2)
        or not all(0 <= number <= LARGEST_ID for number in ids)
    ):
        raise RecipeError(
            f"{verb}: owner={value!r} is not a user id with an optional group id, "
            f"each from 0 to {LARGEST_ID}",
            hint='give numbers such as owner="1000:1000"; names exist only in the image',
        )
    return (ids[0], ids[-1])


def checked_words(verb: str, key: str, value: object) -> tuple[str, ...]:
    """Return a list of strings without NUL bytes as a tuple."""
    if isinstance(value, str) or not isinstance(value, (list, tuple)):
        raise RecipeError(f"{verb}: {key}={value!r} is not a list of strings")
    for word in value:
        if not isinstance(word, str) or "\0" in word:
            raise RecipeError(
                f"{verb}: {key} has {word!r}, which is not a string without NUL bytes"
            )
    return tuple(value)


def checked_pairs(verb: str, pairs: object) -> tuple[tuple[str, str], ...]:
    """Return names and values as a tuple of pairs, in the order given."""
    if not isinstance(pairs, dict):
        raise RecipeError(f"{verb}: {pairs!r} is not a table of names and values")
    for key, value in pairs.items():
        if not isinstance(key, str) or not key or "=" in key or "\0" in key:
            raise RecipeError(f"{verb}: {key!r} is not a name: it is empty, or holds `=` or NUL")
        if not isinstance(value, str) or "\0" in value:
            raise RecipeError(
                f"{verb}: {key}={value!r} is not a string without NUL bytes",
                hint=f'put it in quotes: {key}="{value}"',
            )
    return tuple(pairs.items())
