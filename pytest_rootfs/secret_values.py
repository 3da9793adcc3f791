"""Hide the values of environment variables that hold secrets: `rootfs_secret_env`.

Every value that a container of the session was given under such a name is hidden wherever it
appears in a text, also quoted, escaped or cut short. Values of less than 4 characters are hidden
in the environment only: looked for everywhere, they would hide everything.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from fnmatch import translate
from typing import Any

from pytest_rootfs.settings import SECRET_ENV

MASK = "***"
SHORTEST = 4
LONG = 32
"""From this length on a piece is hidden as well that nothing marks as cut."""
_PIECE = 16
_CUT_AFTER = ("...", "…", "\n[... ")
_CUT_BEFORE = ("...", "…", " left out ...]\n")
"""How pytest, other programs and `run` say that the middle of a text was left out."""


class SecretValues:
    """What is to be hidden in one session; patterns are globs of names, in any case."""

    def __init__(self, patterns: Iterable[str] = SECRET_ENV) -> None:
        self._patterns = tuple(patterns)
        self._names: dict[str, bool] = {}
        self._harmless: set[str] = set()
        """Names that were noted and are no secret: the same ones come with each command."""
        self._values: set[str] = set()
        self._forms: re.Pattern[str] | None = None

    def __bool__(self) -> bool:
        """Tell whether there is anything to hide in a text."""
        return bool(self._values)

    def is_secret(self, name: str) -> bool:
        """Tell whether a variable's value is to be hidden."""
        known = self._names.get(name)
        if known is None:
            rules = (translate(pattern) for pattern in self._patterns)
            known = any(re.fullmatch(rule, name, re.IGNORECASE) for rule in rules)
            self._names[name] = known
        return known

    def note(self, env: Mapping[str, str]) -> None:
        """Learn the secrets of an environment that a container or a command gets."""
        for name in env.keys() - self._harmless:
            if not self.is_secret(name):
                self._harmless.add(name)
            elif len(env[name]) >= SHORTEST and env[name] not in self._values:
                self._values.add(env[name])
                self._forms = None

    def hidden(self, text: str) -> str:
        """Return a text without any of the values."""
        if not self._values:
            return text
        if self._forms is None:
            self._forms = self._expression()
        text = self._forms.sub(MASK, text)
        for value in self._values:
            for form in _forms(value):
                text = _without_ends(text, form)
            if len(value) >= LONG:
                text = _without_pieces(text, value)
        return text

    def hidden_tail(self, text: str) -> str:
        """Return the tail of an output, which may begin in the middle of a value."""
        text = self.hidden(text)
        for value in self._values:
            for start in range(1, len(value) - SHORTEST + 1):
                if text.startswith(value[start:]):
                    return MASK + text[len(value) - start :]
        return text

    def hidden_env(self, env: Mapping[str, str]) -> dict[str, str]:
        """Return an environment in which names stay, and secrets have no value."""
        return {
            name: MASK if value and self.is_secret(name) else self.hidden(value)
            for name, value in env.items()
        }

    def hidden_json(self, value: Any) -> Any:  # Any: JSON of whatever form
        """Return JSON with every text in it hidden; names of members stay."""
        if isinstance(value, str):
            return self.hidden(value)
        if isinstance(value, Mapping):
            return {name: self.hidden_json(each) for name, each in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self.hidden_json(each) for each in value)
        return value

    def _expression(self) -> re.Pattern[str]:
        forms = {form for value in self._values for form in _forms(value)}
        return re.compile("|".join(map(re.escape, sorted(forms, key=len, reverse=True))))


def _forms(value: str) -> set[str]:
    """Return a value as programs, shells and Python write it."""
    plain_json = json.dumps(value, ensure_ascii=False)
    escaped = [each[1:-1] for each in (repr(value), ascii(value), json.dumps(value), plain_json)]
    forms = {value, shlex.quote(value), *escaped, *(repr(each)[1:-1] for each in escaped)}
    return {form for form in forms if len(form) >= SHORTEST}


def _without_ends(text: str, form: str) -> str:
    """Hide a beginning or an end of a value beside the mark of what was left out."""
    head, tail = form[:SHORTEST], form[-SHORTEST:]
    start = text.find(head)
    while start >= 0:
        end = start + SHORTEST
        while end < len(text) and end - start < len(form) and text[end] == form[end - start]:
            end += 1
        if text.startswith(_CUT_AFTER, end):
            text = text[:start] + MASK + text[end:]
        start = text.find(head, start + 1)
    start = text.find(tail)
    while start >= 0:
        first, end = start, start + SHORTEST
        while first > 0 and end - first < len(form) and text[first - 1] == form[first - 1 - end]:
            first -= 1
        if text.endswith(_CUT_BEFORE, 0, first):
            text = text[:first] + MASK + text[end:]
            start = first
        start = text.find(tail, start + 1)
    return text


def _without_pieces(text: str, value: str) -> str:
    """Hide a beginning or an end of a long value that stands alone."""
    head, tail = value[:_PIECE], value[-_PIECE:]
    while (start := text.find(head)) >= 0:
        end = start + _PIECE
        while end < len(text) and end - start < len(value) and text[end] == value[end - start]:
            end += 1
        text = text[:start] + MASK + text[end:]
    while (start := text.find(tail)) >= 0:
        end = start + _PIECE
        while start > 0 and end - start < len(value) and text[start - 1] == value[start - 1 - end]:
            start -= 1
        text = text[:start] + MASK + text[end:]
    return text
