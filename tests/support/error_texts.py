"""The texts of errors, as they stand in the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from pytest_rootfs.errors import RootfsError


def _kinds_below(kind: type) -> Iterator[str]:
    """Yield the names of the classes derived from one."""
    for each in kind.__subclasses__():
        yield each.__name__
        yield from _kinds_below(each)


def templates(sources: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """Yield place and text, as a pattern, of every error in some sources.

    A text may be a variable: then it is what the function assigns to it.
    """
    kinds = {"RootfsError", *_kinds_below(RootfsError)}  # by now all are imported
    for source in sources:
        for function in ast.walk(ast.parse(source.read_text())):
            if isinstance(function, ast.FunctionDef):
                for line, text in _texts_of(function, kinds):
                    yield f"{source.name}:{line}", _pattern(text)


def _texts_of(function: ast.FunctionDef, kinds: set[str]) -> Iterator[tuple[int, ast.expr]]:
    nodes = list(ast.walk(function))
    for call in (node for node in nodes if isinstance(node, ast.Call)):
        name = call.func.id if isinstance(call.func, ast.Name) else ""
        said = call.args[:1] if name in kinds else []
        if name == "Gap":
            said = [word.value for word in call.keywords if word.arg == "reason"]
        for text in said:
            if isinstance(text, ast.Name):
                yield from ((call.lineno, found) for found in _assigned(text.id, nodes))
            else:
                yield call.lineno, text


def _assigned(name: str, nodes: list[ast.AST]) -> Iterator[ast.expr]:
    for node in nodes:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == name:
            yield node.value


def _pattern(text: ast.expr) -> str:
    """Return the pattern of a text; of what is not one, as `gap.reason`, that of anything."""
    parts = text.values if isinstance(text, ast.JoinedStr) else [text]
    return "".join(
        re.escape(str(part.value)) if isinstance(part, ast.Constant) else ".*" for part in parts
    )
