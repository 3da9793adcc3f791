"""Print tables and text: with rich on a terminal, plain and stable everywhere else.

Names come out of containers that ran anything: what is shown on a terminal is freed of control
characters first.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Literal

CHANGE_LETTERS = {"added": "A", "modified": "M", "deleted": "D"}
_FOLDED = ("test", "name", "error")
"""Columns that may take several lines where the terminal is too narrow."""
_FOLDED_COLUMNS = 12
"""What is left of such a column at least."""
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\ud800-\udfff]")


def is_terminal() -> bool:
    """Tell whether standard output is a terminal that may be drawn on."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def has_colour() -> bool:
    """Tell whether colours are welcome; https://no-color.org."""
    return is_terminal() and not os.environ.get("NO_COLOR")


def safe(text: str) -> str:
    """Return text with control characters and undecodable bytes written as escapes."""
    return _CONTROL.sub(lambda match: _escape(match[0]), text)


def print_json(value: object) -> None:
    """Print a JSON document; undecodable bytes of names are written as lone surrogates."""
    print(json.dumps(value, indent=2, default=str))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: str = "") -> None:
    """Print rows under a heading; `right` lists the columns that are aligned to the right."""
    rows = [[safe(cell) for cell in row] for row in rows]
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    if is_terminal():
        pairs = zip(columns, widths, strict=True)
        needed = sum(_FOLDED_COLUMNS if name in _FOLDED else width for name, width in pairs)
        if needed + 3 * (len(columns) - 1) > shutil.get_terminal_size().columns:
            _print_records(columns, rows)
        else:
            _print_rich_table(columns, rows, right.split())
        return
    for row in [[name.upper() for name in columns], *rows]:
        cells = [
            cell.rjust(width) if name in right.split() else cell.ljust(width)
            for name, cell, width in zip(columns, row, widths, strict=True)
        ]
        print("  ".join(cells).rstrip())


def _print_records(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a line a cell: for terminals that are too narrow for a table."""
    for row in rows:
        for name, cell in zip(columns, row, strict=True):
            if cell:
                print(f"{heading(name)} {cell}")
        print()


def _print_rich_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str]
) -> None:
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415  only for terminals; 60 ms
    from rich.console import Console  # noqa: PLC0415  as above
    from rich.table import Table  # noqa: PLC0415  as above
    from rich.text import Text  # noqa: PLC0415  as above

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in columns:
        justify: Literal["left", "right"] = "right" if name in right else "left"
        table.add_column(name, justify=justify, no_wrap=name not in _FOLDED, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console(highlight=False).print(table)


def heading(text: str) -> str:
    """Return a heading, bold where colours are welcome."""
    return f"\x1b[1m{text}\x1b[0m" if has_colour() else text


def painted(text: str, colour: str) -> str:
    """Return text in a colour where colours are welcome."""
    codes = {"red": "31", "green": "32", "yellow": "33", "cyan": "36", "bold": "1"}
    return f"\x1b[{codes[colour]}m{text}\x1b[0m" if has_colour() else text


def note(text: str) -> None:
    """Tell the user something beside the output, on standard error."""
    print(f"note: {safe(text)}", file=sys.stderr)


def counted(count: int, what: str) -> str:
    """Return a count with its noun: `1 blob`, `2 blobs`."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def local_time(iso_time: str) -> str:
    """Return an ISO time in the user's time zone, to the second."""
    try:
        moment = datetime.fromisoformat(iso_time)
    except ValueError:
        return iso_time
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code - 0xDC00:02x}" if code >= 0xDC00 else f"\\x{code:02x}"
