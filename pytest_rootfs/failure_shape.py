"""The form of `failure.json`, member by member: a record from elsewhere is checked before its use.

Whoever reads a `Failure` trusts that a text is a text. Members that nobody knows are left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Union

Shape = Union[tuple[type, ...], list[Any], "dict[str, Any]"]  # Any: a Shape again
"""Types of which a value has one; in a list that of every element; in a dict that of members.

A member whose name begins with `*` must be there, and the only member `""` stands for all names.
"""

NOTHING = type(None)
_TEXT = (str,)
_TEXTS: Shape = [_TEXT]
_COUNT = (int,)
_FLAG = (bool,)
_MAYBE_TEXT = (str, NOTHING)
_FIGURE = (int, float, NOTHING)
_FIGURES: Shape = {"": _FIGURE}
_ANY_OBJECT: Shape = {}

_STATE = {
    "type": _TEXT,
    **dict.fromkeys(("mode", "uid", "gid", "size", "mtime_ns"), _COUNT),
    "target": _MAYBE_TEXT,
}
_CHANGE = {"*path": _TEXT, "*kind": _TEXT, "type": _TEXT, "since_test": _FLAG}
_STATES = {"before": _STATE, "after": _STATE}  # or null
_COMMAND = {
    "*argv": _TEXTS,
    "*returncode": (int, NOTHING),
    "*duration_s": _FIGURE,
    "output_tail": _TEXT,
    "timed_out": _FLAG,
    "started": _FLAG,
    "since_test": _FLAG,
}
_PROCESS = {
    "*pid": _COUNT,
    "ppid": _COUNT,
    "user": _COUNT,
    "state": _TEXT,
    "argv": _TEXTS,
    "files": [{"*fd": _COUNT, "*target": _TEXT}],
    "more_files": _COUNT,
}
_IMAGE = {
    "*name": _TEXT,
    "*digest": _TEXT,
    "chain_id": _TEXT,
    "layers": _TEXTS,
    "size": _COUNT,
    "is_host": _FLAG,
    "config": _ANY_OBJECT,
}
_OPTIONS = {
    "mounts": [{"*source": _TEXT, "*target": _TEXT}],
    "tmpfs": [{"*target": _TEXT, "*size_bytes": (int, NOTHING)}],
}
CONTAINER: dict[str, Any] = {
    "*name": _TEXT,
    "*image": _IMAGE,
    **dict.fromkeys(("user", "workdir", "hostname", "manifest", "layer"), _TEXT),
    **dict.fromkeys(("limits_hit", "masked_env", "gaps"), _TEXTS),
    "env": {"": _TEXT},
    "options": _OPTIONS,
    "limits": _FIGURES,
    "stats": _FIGURES,
    "changes": [_CHANGE],
    "commands": [_COMMAND],
    "processes": [_PROCESS],
    "mounts": [{"": (str, int)}],
    "*size": _COUNT,
}
FAILURE: dict[str, Any] = {
    **dict.fromkeys(
        ("*id", "*nodeid", "*when", "*outcome", "*time", "*message", "*rootdir", "keep"), _TEXT
    ),
    "images": _TEXTS,
    "timings": _FIGURES,
    "test_file": {"": _TEXT},
    "*containers": [CONTAINER],
}


class Misfit(ValueError):
    """A value of another form; its place is put together on the way out, as most values fit."""

    def __init__(self, what: str, place: str = "") -> None:
        super().__init__(f"{place.lstrip('.') or 'it'} {what}")
        self.what = what
        self.place = place


def check(value: object, shape: Shape) -> None:
    """Raise `Misfit` naming the first member that is not of its form."""
    if isinstance(shape, tuple):
        if not isinstance(value, shape):
            raise _misfit(value)
    elif isinstance(shape, list):
        if not isinstance(value, (list, tuple)):
            raise _misfit(value)
        _check_each(enumerate(value), shape[0])
    else:
        if not isinstance(value, Mapping):
            raise _misfit(value)
        _check_members(value, shape)
        if shape is _CHANGE:
            _check_members({name: value[name] for name in _STATES if value.get(name)}, _STATES)


def _check_each(pairs: Iterable[tuple[int, object]], shape: Shape) -> None:
    number = 0
    try:
        for number, each in pairs:  # noqa: B007  told when it ends early
            check(each, shape)
    except Misfit as error:
        raise Misfit(error.what, f"[{number}]{error.place}") from None


def _check_members(value: Mapping[str, object], shape: Mapping[str, Any]) -> None:  # Any: a Shape
    members = dict.fromkeys(value, shape[""]) if "" in shape else shape
    key = ""
    try:
        for name, form in members.items():
            key = name.removeprefix("*")
            if key in value:
                check(value[key], form)
            elif name != key:
                raise Misfit("is missing")  # noqa: TRY301  told with its place, as the others
    except Misfit as error:
        raise Misfit(error.what, f".{key}{error.place}") from None


def _misfit(value: object) -> Misfit:
    return Misfit(f"is {str(value)[:60]!r} ({type(value).__name__})")
