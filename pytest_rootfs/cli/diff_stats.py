"""`diff --stat`: a line a path, as `git diff --stat` has it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass

from pytest_rootfs.cli.output import is_terminal, painted, safe

_PLAIN_COLUMNS = 80
_NAME_COLUMNS_MIN, _BAR_COLUMNS_MIN = 10, 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Stat:
    """How much of a path differs: lines, and remarks on what is no text."""

    path: str
    added: int = 0
    removed: int = 0
    remarks: tuple[str, ...] = ()


def measure(path: str, lines: Iterable[bytes]) -> Stat:
    """Count the lines of a comparison."""
    added = removed = 0
    remarks: list[str] = []
    in_hunk = has_header = False
    for line in lines:
        if line.startswith(b"@@"):
            in_hunk = True
        elif in_hunk:
            added += line.startswith(b"+")
            removed += line.startswith(b"-")
        elif line.startswith((b"--- ", b"+++ ")):
            has_header = True
        else:
            text = line.decode(errors="surrogateescape")
            remarks.append(text if has_header else _remark(text, safe(path)))
    return Stat(path=path, added=added, removed=removed, remarks=tuple(filter(None, remarks)))


def _remark(line: str, name: str) -> str:
    """Return what a line says of a path, without its name."""
    before, _, after = line.partition(name)
    words = before.rstrip(": ")
    if " became " in words:
        return words
    word, _, kind = words.partition(" ")
    if word in ("added", "deleted"):
        return "" if kind == "file" else words
    return f"{word} {after.lstrip(': ')}"


def print_stats(stats: Iterable[Stat]) -> None:
    """Print a line for each path and one for the sum."""
    stats = list(stats)
    columns = shutil.get_terminal_size().columns if is_terminal() else _PLAIN_COLUMNS
    names = [safe(stat.path) for stat in stats]
    widest = max(map(len, names), default=0)
    if is_terminal():
        widest = min(widest, max(_NAME_COLUMNS_MIN, columns // 2))
    counts = [str(stat.added + stat.removed) for stat in stats]
    digits = max(map(len, counts), default=1)
    bar_columns = max(columns - widest - digits - 6, _BAR_COLUMNS_MIN)
    most = max((stat.added + stat.removed for stat in stats), default=0)
    scale = min(1.0, bar_columns / most) if most else 1.0
    for stat, name, count in zip(stats, names, counts, strict=True):
        has_count = count != "0" or not stat.remarks
        parts = [f"{count.rjust(digits)} {_bar(stat, scale)}".rstrip()] if has_count else []
        parts += [safe(remark) for remark in stat.remarks]
        print(f" {_cut(name, widest).ljust(widest)} | {', '.join(parts)}")
    print(_sum(stats))


def _bar(stat: Stat, scale: float) -> str:
    plus, minus = (
        max(round(count * scale), 1) if count else 0 for count in (stat.added, stat.removed)
    )
    bars = (
        painted("+" * plus, "green") if plus else "",
        painted("-" * minus, "red") if minus else "",
    )
    return "".join(bars)


def _cut(name: str, columns: int) -> str:
    """Return the end of a name that is too long: there files differ most."""
    return name if len(name) <= columns else f"…{name[1 - columns :]}"


def _sum(stats: list[Stat]) -> str:
    added = sum(stat.added for stat in stats)
    removed = sum(stat.removed for stat in stats)
    words = [f"{len(stats)} path{'' if len(stats) == 1 else 's'} changed"]
    if added:
        words.append(f"{added} insertion{'' if added == 1 else 's'}(+)")
    if removed:
        words.append(f"{removed} deletion{'' if removed == 1 else 's'}(-)")
    return f" {', '.join(words)}"
