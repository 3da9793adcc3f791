"""Show how a text file differs, as `diff -u` does."""

from __future__ import annotations

import difflib
import io


def unified(path: str, before: bytes | None, after: bytes | None) -> str:
    """Return the unified diff of two contents of an absolute path; None is a missing file.

    Empty when they are the same; one line for binary files, which hold a null byte.
    """
    if before == after:
        return ""
    if b"\0" in (before or b"") or b"\0" in (after or b""):
        return f"Binary files a{path} and b{path} differ\n"
    lines = difflib.unified_diff(
        _lines(before),
        _lines(after),
        "/dev/null" if before is None else f"a{path}",
        "/dev/null" if after is None else f"b{path}",
    )
    return "".join(line if line.endswith("\n") else f"{line}{NO_NEWLINE}" for line in lines)


NO_NEWLINE = "\n\\ No newline at end of file\n"


def _lines(content: bytes | None) -> list[str]:
    text = (content or b"").decode("utf-8", "replace")
    return list(io.StringIO(text, newline="\n"))  # str.splitlines breaks at \r, \f and more
