"""Which paths a glob matches."""

from __future__ import annotations

import pytest

from pytest_rootfs.errors import RecipeError
from pytest_rootfs.image.globs import compile_globs


@pytest.mark.parametrize(
    ("glob", "path", "is_match"),
    [
        ("*.pyc", "a.pyc", True),
        ("*.pyc", "deep/down/a.pyc", True),
        ("*.pyc", "a.py", False),
        ("__pycache__", "x/__pycache__", True),
        ("__pycache__/", "x/__pycache__", True),
        ("/build", "build", True),
        ("/build", "x/build", False),
        ("src/*.o", "src/a.o", True),
        ("src/*.o", "src/x/a.o", False),
        ("src/*.o", "lib/src/a.o", False),
        ("**/x", "x", True),
        ("**/x", "a/b/x", True),
        ("a/**/x", "a/x", True),
        ("a/**/x", "a/b/c/x", True),
        ("a/**", "a/b/c", True),
        ("a?c", "abc", True),
        ("a?c", "a/c", False),
        ("[ab]c", "bc", True),
        ("[!ab]c", "bc", False),
        ("[!ab]c", "dc", True),
        ("a.c", "abc", False),
        ("*", "x\ny", True),
        ("[^ab]c", "dc", True),
        ("[[^a]c", "^c", True),
        ("[!]a]", "b", True),
        ("[!]a]", "]", False),
        ("[[:x]", ":", True),
        ("[a&&b]", "&", True),
        ("[z-a]", "[z-a]", True),
        ("[!a]", "x/b", True),
        ("x[!a]b", "x/b", False),
    ],
)
def test_glob_matches(glob: str, path: str, *, is_match: bool) -> None:
    pattern = compile_globs([glob])

    assert pattern is not None
    assert bool(pattern.fullmatch(path)) is is_match


@pytest.mark.parametrize("glob", ["!keep", "", "/", "a[b", "[!]"])
def test_unusable_glob_is_refused(glob: str) -> None:
    with pytest.raises(RecipeError, match="ignore: "):
        compile_globs([glob])
