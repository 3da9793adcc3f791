"""Translate globs of paths into regular expressions."""

from __future__ import annotations

import re


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
        elif (found := bracket(pattern, position)) is not None:
            choice, position = found
            expression += choice
        else:
            expression += re.escape(pattern[position])
            position += 1
    return f"(?s:{expression})"


def bracket(
    pattern: str, position: int, *, negations: tuple[str, ...] = ("!",)
) -> tuple[str, int] | None:
    """Return the expression of a `[…]` at a position, and where it ends; None if none is there.

    It never matches a slash. `]` may stand first; a range that runs backwards is plain text.
    """
    if not pattern.startswith("[", position):
        return None
    first = position + 1 + pattern.startswith(negations, position + 1)
    end = pattern.find("]", first + 1)
    if end < 0:
        return None
    sign = "^" if first > position + 1 else ""
    inside = re.sub(r"([\\\[\]^&~|])", r"\\\1", pattern[first:end])
    try:
        re.compile(f"[{sign}{inside}]")
    except re.error:
        return re.escape(pattern[position : end + 1]), end + 1
    return f"(?!/)[{sign}{inside}]", end + 1
