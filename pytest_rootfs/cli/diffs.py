"""`diff`: what differs between a failed container and its image, or another one, as unified diffs.

Two containers are started, one from each side, and the paths that may differ read from both. A
folder that only one side has is read to its depth. The output is what `patch` reads, as far as
unified diffs can say it; binary files, symbolic links, modes and owners are one line each.
"""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from pytest_rootfs.cli import against, diff_stats
from pytest_rootfs.cli.output import has_colour, note, painted, safe
from pytest_rootfs.cli.sessions import (
    find_container,
    find_failure,
    open_engine,
    start_image,
    start_kept,
)
from pytest_rootfs.cli.verbs import NotFound, Verb, add_container, add_failure
from pytest_rootfs.failure_start import require_files
from pytest_rootfs.textdiff import unified_lines

if TYPE_CHECKING:
    from pytest_rootfs.failures import KeptContainer
    from pytest_rootfs.runtime.container import Container

_READ_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One path on one side of the comparison; `content` is None for what is not a regular file.

    `kind` is the file type as `ls` writes it, "" where the path does not exist.
    """

    kind: str = ""
    mode: int = 0
    owner: str = ""
    target: str = ""
    size: int = 0
    content: bytes | None = None


def _configure(parser: argparse.ArgumentParser) -> None:
    add_failure(parser)
    parser.add_argument("path", metavar="PATH", nargs="?", help="only this path and what is below")
    parser.add_argument(
        "--against",
        metavar="IMAGE|ID|pass",
        default=against.IMAGE,
        help="`image` (default), another failure, or `pass`: the newest kept pass of the same test",
    )
    parser.add_argument("--stat", action="store_true", help="only how much of each path differs")
    add_container(parser)


def _diff(args: argparse.Namespace) -> int:
    with open_engine(args) as engine:
        store = engine.store
        failure = find_failure(store, args.failure)
        kept = find_container(failure, args.container)
        require_files(failure, kept)
        other = against.find_other(store, failure, kept, args.against)
        paths = _wanted(kept, args.path, against.differing_paths(store, kept, other))
        if not paths:
            note("nothing changed" if other is None else "nothing differs")
            return 0
        after = start_kept(engine, kept, user="root")
        before = start_kept(engine, other, user="root") if other else start_image(engine, kept)
        found = _differences(before, after, paths)
        count = _print_stats(found) if args.stat else _print_all(found)
    if not count and args.path is not None:
        raise _nothing_at(args.path)
    if not count:
        note("the paths that changed differ in nothing but their times")
    return 0


def _wanted(kept: KeptContainer, path: str | None, paths: list[str]) -> list[str]:
    if path is None:
        return paths
    wanted = PurePosixPath(os.path.normpath(PurePosixPath(kept.workdir or "/") / path))
    found = [
        each for each in paths if wanted in (PurePosixPath(each), *PurePosixPath(each).parents)
    ]
    if not found and not any(PurePosixPath(each) in wanted.parents for each in paths):
        raise _nothing_at(str(wanted))
    return found or [str(wanted)]  # below a folder that only one side has


def _nothing_at(path: str) -> NotFound:
    return NotFound(f"nothing changed at {path}", hint="leave PATH out to see what did")


def _differences(
    before: Container, after: Container, paths: Sequence[str]
) -> Iterator[tuple[str, list[bytes]]]:
    """Yield every path that differs, with the lines that say how."""
    pending, known = list(reversed(paths)), set(paths)
    while pending:
        path = pending.pop()
        old, new = _read_side(before, path), _read_side(after, path)
        if lines := list(compare(path, old, new)):
            yield path, lines
        if "d" in (old.kind, new.kind) and old.kind != new.kind:
            owner = before if old.kind == "d" else after
            below = sorted(str(each) for each in owner.path(path).iterdir())
            pending += [each for each in reversed(below) if each not in known]
            known.update(below)


def _print_all(found: Iterable[tuple[str, list[bytes]]]) -> int:
    count = 0
    for _, lines in found:
        _print(lines)
        count += 1
    return count


def _print_stats(found: Iterable[tuple[str, list[bytes]]]) -> int:
    stats = [diff_stats.measure(path, lines) for path, lines in found]
    if stats:
        diff_stats.print_stats(stats)
    return len(stats)


def _read_side(container: Container, path: str) -> Side:
    """Read a path in a container, not following a symbolic link at its end."""
    place = container.path(path)
    try:
        status = place.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return Side()
    is_file = stat.S_ISREG(status.st_mode)
    return Side(
        kind=stat.filemode(status.st_mode)[0],
        mode=stat.S_IMODE(status.st_mode),
        owner=f"{status.st_uid}:{status.st_gid}",
        target=str(place.readlink()) if stat.S_ISLNK(status.st_mode) else "",
        size=status.st_size,
        content=place.read_bytes() if is_file and status.st_size <= _READ_BYTES else None,
    )


def compare(path: str, before: Side, after: Side) -> Iterator[bytes]:
    """Write what differs between two sides of a path, as lines without their ends."""
    name = _encoded(path)
    if before.kind != after.kind:
        yield from _headline(name, before, after)
    elif before.mode != after.mode:
        yield b"mode of %s: %04o -> %04o" % (name, before.mode, after.mode)
    if before.kind and after.kind and before.owner != after.owner:
        yield b"owner of %s: %s -> %s" % (name, before.owner.encode(), after.owner.encode())
    if before.kind == after.kind == "l" and before.target != after.target:
        yield b"symlink %s: %s -> %s" % (name, _encoded(before.target), _encoded(after.target))
    if "-" in (before.kind, after.kind):
        yield from _compare_content(name, before, after)


_KINDS = {"-": "file", "d": "directory", "l": "symlink", "p": "fifo", "s": "socket"}


def _headline(name: bytes, before: Side, after: Side) -> Iterator[bytes]:
    """Say that a path came, went, or became something else."""
    old, new = (_KINDS.get(side.kind, "device").encode() for side in (before, after))
    target = b" -> " + _encoded(after.target) if after.kind == "l" else b""
    if not before.kind:
        yield b"added %s: %s%s, mode %04o" % (new, name, target, after.mode)
    elif not after.kind:
        yield b"deleted %s: %s" % (old, name)
    else:
        yield b"%s became %s: %s%s" % (old, new, name, target)


def _compare_content(name: bytes, before: Side, after: Side) -> Iterator[bytes]:
    old, new = (b"" if side.kind != "-" else side.content for side in (before, after))
    if old is None or new is None or b"\0" in old[:8192] or b"\0" in new[:8192]:
        if old != new or old is None:
            yield b"binary file %s: %d -> %d bytes" % (name, before.size, after.size)
        return
    if old == new:
        return
    old_name = b"a" + name if before.kind == "-" else b"/dev/null"
    new_name = b"b" + name if after.kind == "-" else b"/dev/null"
    yield from unified_lines(old, new, old_name, new_name)


def _print(lines: Iterable[bytes]) -> None:
    for line in lines:
        if not sys.stdout.isatty():
            sys.stdout.buffer.write(line + b"\n")
            continue
        text = safe(line.decode(errors="surrogateescape"))
        print(_coloured(text) if has_colour() else text)
    sys.stdout.flush()


def _coloured(line: str) -> str:
    if line.startswith(("--- ", "+++ ")):
        return painted(line, "bold")
    for mark, colour in (("@@", "cyan"), ("+", "green"), ("-", "red")):
        if line.startswith(mark):
            return painted(line, colour)
    return line if line.startswith((" ", "\\")) else painted(line, "yellow")


def _encoded(name: str) -> bytes:
    """Return a file's name with control characters and undecodable bytes as escapes."""
    return safe(name).encode()


VERBS = {
    "diff": Verb(
        description="Show what differs between a failed container and its image, another failure "
        "or a pass:\nunified diffs of text files, one line for everything else.",
        configure=_configure,
        act=_diff,
        examples=(
            "diff last",
            "diff last /etc --stat",
            "diff f3a9c1 --against 81d0be",
            "diff last --against pass",
        ),
    ),
}
