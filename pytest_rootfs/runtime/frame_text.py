"""JSON as text and back, by what the module `json` is made of, without that module.

It brings regular expressions and enumerations: see `kernel.sockets` for what an import costs.
"""

from __future__ import annotations

import _json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


class _Rules:
    """How to read JSON, as `json.JSONDecoder` does by default."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: dict[str, str] = {}  # noqa: RUF012  asked of it by name, and cleared after each text


def _refuse(value: object) -> object:
    raise TypeError(f"{type(value).__name__} cannot be sent")


_parse = _json.make_scanner(_Rules)  # type: ignore[arg-type]  # any object with these
_write = _json.make_encoder(
    None, _refuse, _json.encode_basestring_ascii, None, ":", ",", False, False, True
)


def encode(message: Mapping[str, object]) -> str:
    """Return an object as JSON text, in the shortest form; raises TypeError for what has none."""
    return "".join(_write(message, 0))


def decode(text: str) -> Any:  # Any: JSON
    """Return what JSON text says; raises ValueError, or RecursionError for what is too deep.

    White space may be inside the text, but not around it.
    """
    try:
        value, end = _parse(text, 0)
    except (StopIteration, ImportError, SystemError):
        # the last two: the error to be raised is json's, which is not there to be asked for it
        raise ValueError("not JSON") from None
    if end != len(text):
        raise ValueError("more than one value")
    return value
