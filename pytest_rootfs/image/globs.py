"""Say what a copy leaves out: `*` and `?` within a name, `**` across folders, `[a-z]`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pytest_rootfs.errors import RecipeError
from pytest_rootfs.globs import bracket


def compile_globs(globs: Sequence[str]) -> re.Pattern[str] | None:
    """Return one pattern for relative paths, to be used with `fullmatch`; `None` for no globs.

    A glob without a slash is tried on the last component, at any depth; one with a slash on the
    whole path. Raises `RecipeError` for negation and for unbalanced brackets.
    """
    if not globs:
        return None
    return re.compile("|".join(f"(?:{_translated(glob)})" for glob in globs), re.DOTALL)


def _translated(glob: str) -> str:
    if glob.startswith("!"):
        raise RecipeError(f"ignore: {glob!r}: negation is not supported")
    body = glob.strip("/")
    if not body:
        raise RecipeError(f"ignore: {glob!r} names nothing")
    pattern = "/".join(_component(part) for part in body.split("/"))
    # `**` as a component stands for any number of components, none included.
    pattern = (
        pattern.replace("\0/", "(?:[^/]+/)*").replace("/\0", "(?:/[^/]+)*").replace("\0", ".+")
    )
    return pattern if "/" in glob.rstrip("/") else f"(?:.*/)?{pattern}"


def _component(part: str) -> str:
    if part == "**":
        return "\0"
    pattern = ""
    position = 0
    while position < len(part):
        char = part[position]
        position += 1
        if char == "*":
            pattern += "[^/]*"
        elif char == "?":
            pattern += "[^/]"
        elif char == "[":
            found = bracket(part, position - 1, negations=("!", "^"))  # as Docker has it
            if found is None:
                raise RecipeError(f"ignore: {part!r} has a `[` without `]`")
            choice, position = found
            pattern += choice
        else:
            pattern += re.escape(char)
    return pattern
