"""Read image recipes: TOML files with a `from` and `[[step]]` tables, each with one verb.

    from = "minimal"

    [[step]]
    copy = ["dist/app", "/opt/app"]     # or copy = { source = "dist/app", target = "/opt/app" }
    ignore = ["*.pyc"]

A relative source starts at the recipe's folder. Anything unknown is refused, with what is closest.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any  # keyword arguments read from a file are checked by the verbs that get them

from pytest_rootfs.errors import RecipeError
from pytest_rootfs.image.description import FOREIGN_SCHEMES, Image
from pytest_rootfs.image.steps import AppletsStep, LayoutStep, ProgramsStep, checked_words

TOP_KEYS = ("from", "description", "step")
_PAIRS = ("pairs",)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verb:
    """How a verb is written: positional arguments, which must all be there, and options."""

    arguments: tuple[str, ...]
    options: tuple[str, ...] = ()
    apply: Callable[[Image, dict[str, Any]], Image]  # see the import

    @property
    def takes_table(self) -> bool:
        """Whether the argument is a table itself, of names and values."""
        return self.arguments == _PAIRS


def read_recipe(path: Path) -> Image:
    """Return the image that a recipe describes, named after its file.

    Raises `RecipeError` that names the file, the step, the key and the value.
    """
    table = _parsed(path)
    try:
        image = _start(table, path.parent)
    except RecipeError as error:
        raise _located(error, f"recipe {path}") from error
    for number, step in enumerate(table.get("step", []), 1):
        try:
            image = _with_step(image, step, path.parent)
        except RecipeError as error:
            raise _located(error, f"recipe {path}, step {number}") from error
    return replace(image, title=path.stem, titled_steps=len(image.steps))


def _parsed(path: Path) -> dict[str, Any]:
    try:
        import tomllib  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415  3.11
    except ImportError:
        import tomli as tomllib  # type: ignore[no-redef,unused-ignore]  # noqa: PLC0415  3.10
    try:
        with path.open("rb") as file:
            return dict(tomllib.load(file))
    except OSError as error:
        raise RecipeError(f"cannot read recipe {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"recipe {path} is not valid TOML: {error}", hint="see https://toml.io for the format"
        ) from error


def _start(table: Mapping[str, object], folder: Path) -> Image:
    _check_known(table, TOP_KEYS)
    start = table.get("from")
    if not isinstance(start, str) or not start:
        raise RecipeError(
            f"from={start!r} is not the name of an image",
            hint='begin the recipe with a line such as: from = "minimal"',
        )
    if not isinstance(table.get("step", []), list):
        raise RecipeError("`step` is not a list of tables", hint="begin each with [[step]]")
    scheme, colon, rest = start.partition(":")
    if colon and rest and scheme in FOREIGN_SCHEMES:
        start = f"{scheme}:{os.path.join(folder, rest)}"
    return Image(start)


def _with_step(image: Image, step: object, folder: Path) -> Image:
    if not isinstance(step, Mapping):
        raise RecipeError(f"{step!r} is not a table")
    name = _verb_in(step)
    verb = VERBS[name]
    beside = {key: item for key, item in step.items() if key != name}
    arguments = _arguments(name, verb, step[name], beside)
    if isinstance(source := arguments.get("source"), str):
        arguments["source"] = os.path.join(folder, source)
    return verb.apply(image, arguments)


def _verb_in(step: Mapping[str, object]) -> str:
    verbs = [key for key in step if key in VERBS]
    if len(verbs) > 1:
        raise RecipeError(f"has the verbs {' and '.join(verbs)}", hint="give each its own [[step]]")
    if not verbs:
        first = next(iter(step), "")
        raise RecipeError(
            f"has no known verb: {first!r}" if first else "is empty", hint=_accepted(first, VERBS)
        )
    return verbs[0]


def _arguments(
    name: str, verb: _Verb, value: object, beside: Mapping[str, object]
) -> dict[str, Any]:
    """Return the arguments of a verb: one value, a list or a table, and what stands beside it."""
    if isinstance(value, Mapping) and not verb.takes_table:
        accepted = (*verb.arguments, *verb.options)
        _check_known(value, accepted)
        _check_known(beside, accepted)
        if twice := [key for key in beside if key in value]:
            raise RecipeError(f"{' and '.join(twice)} is given twice, in the table and beside it")
        given = dict(value)
    else:
        if stray := [key for key in beside if key in verb.arguments]:
            raise RecipeError(
                f"{' and '.join(stray)} beside {name}={value!r}", hint=_forms(name, verb)
            )
        _check_known(beside, verb.options)
        given = _positional(verb, value)
    if missing := [key for key in verb.arguments if key not in {*given, *beside}]:
        raise RecipeError(
            f"{name}={value!r} has no {' and no '.join(missing)}", hint=_forms(name, verb)
        )
    return {**given, **beside}


def _positional(verb: _Verb, value: object) -> dict[str, Any]:
    """Return one value, or a list of as many as there are arguments, by their names."""
    if len(verb.arguments) == 1:
        return {verb.arguments[0]: value}
    if isinstance(value, list) and len(value) == len(verb.arguments):
        return dict(zip(verb.arguments, value, strict=True))
    return {}


def _forms(name: str, verb: _Verb) -> str:
    """Return how the arguments of a verb are written."""
    listed = ", ".join(key.upper() for key in verb.arguments)
    value = listed if len(verb.arguments) == 1 else f"[{listed}]"
    table = ", ".join(f"{key} = {key.upper()}" for key in verb.arguments)
    return f"write {name} = {value} or {name} = {{ {table} }}"


def _check_known(table: Mapping[str, object], known: Iterable[str]) -> None:
    for key, value in table.items():
        if key not in known:
            raise RecipeError(f"unknown key {key}={value!r}", hint=_accepted(key, known))


def _accepted(key: str, known: Iterable[str]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(key, names, n=1)
    closest = f"did you mean {near[0]!r}? " if near else ""
    return f"{closest}accepted: {', '.join(names) or 'none'}"


def _located(error: RecipeError, where: str) -> RecipeError:
    return RecipeError(f"{where}: {error.what}", detail=error.detail, hint=error.hint)


def _programs(image: Image, arguments: dict[str, Any]) -> Image:
    """Add programs in two layers: their libraries, which change rarely, and themselves."""
    names = {
        key: checked_words("programs", key, arguments.get(key, []))
        for key in ("required", "optional")
    }
    libraries = ProgramsStep(**names, part="libraries")
    return image.with_step(libraries).with_step(replace(libraries, part="programs"))


def _layout(image: Image, arguments: dict[str, Any]) -> Image:
    if arguments["kind"] != "merged-usr":
        raise RecipeError(f"layout={arguments['kind']!r} is unknown", hint="accepted: merged-usr")
    return image.with_step(LayoutStep())


def _applets(image: Image, arguments: dict[str, Any]) -> Image:
    (program,) = checked_words("applets_of", "program", [arguments["program"]])
    return image.with_step(AppletsStep(program=program))


VERBS: dict[str, _Verb] = {
    "copy": _Verb(
        arguments=("source", "target"),
        options=("mode", "owner", "ignore"),
        apply=lambda image, arguments: image.copy(**arguments),
    ),
    "file": _Verb(
        arguments=("path", "content"),
        options=("mode", "owner"),
        apply=lambda image, arguments: image.file(**arguments),
    ),
    "run": _Verb(
        arguments=("command",),
        options=("network",),
        apply=lambda image, arguments: image.run(**arguments),
    ),
    "add_binary": _Verb(
        arguments=("path",), apply=lambda image, arguments: image.add_binary(**arguments)
    ),
    "env": _Verb(arguments=_PAIRS, apply=lambda image, arguments: image.env(**_table(arguments))),
    "label": _Verb(
        arguments=_PAIRS, apply=lambda image, arguments: image.label(**_table(arguments))
    ),
    "workdir": _Verb(
        arguments=("path",), apply=lambda image, arguments: image.workdir(**arguments)
    ),
    "user": _Verb(arguments=("user",), apply=lambda image, arguments: image.user(**arguments)),
    "entrypoint": _Verb(
        arguments=("command",), apply=lambda image, arguments: image.entrypoint(**arguments)
    ),
    "layout": _Verb(arguments=("kind",), apply=_layout),
    "programs": _Verb(arguments=("required",), options=("optional",), apply=_programs),
    "applets_of": _Verb(arguments=("program",), apply=_applets),
}


def _table(arguments: dict[str, Any]) -> dict[str, Any]:
    pairs = arguments["pairs"]
    if not isinstance(pairs, dict):
        raise RecipeError(f"{pairs!r} is not a table", hint='write it as { NAME = "value" }')
    return pairs
