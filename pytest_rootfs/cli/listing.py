"""`failures` and `show`: what is kept, and what happened."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_rootfs.cli.output import (
    CHANGE_LETTERS,
    heading,
    local_time,
    note,
    painted,
    print_json,
    print_table,
    safe,
)
from pytest_rootfs.cli.sessions import find_failure, open_store
from pytest_rootfs.cli.verbs import Verb, add_failure, add_json
from pytest_rootfs.failure_record import FILE
from pytest_rootfs.failures import Failure, Failures, KeptContainer, belongs
from pytest_rootfs.report import ending
from pytest_rootfs.settings import shown_size

_SHOWN_CHANGES = 50
_SHOWN_COMMANDS = 20
_SHOWN_FILES = 10
_COLOURS = {"added": "green", "modified": "yellow", "deleted": "red"}


def _configure_failures(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help="those of every project")
    add_json(parser)


def _failures(args: argparse.Namespace) -> int:
    with open_store(args) as store:
        failures = Failures(store)
        every, damaged = failures.list(), failures.damaged()
    found = [each for each in every if args.all or belongs(each, Path.cwd())]
    for name in damaged:
        note(f"{name} cannot be read; remove it with `pytest-rootfs rm {name}`")
    if args.json:
        print_json([_summary(failure) for failure in found])
    elif found:
        columns = ["id", "test", "when", "changes", "size", "time"]
        rows = [_row(failure) for failure in found]
        print_table(columns, rows, right="changes size")
    elif every:
        note(f"no failure of this project is kept; {len(every)} of others: --all lists them")
    elif not damaged:
        print("no failures are kept here")
    return 0


def _row(failure: Failure) -> list[str]:
    when = failure.when if failure.outcome == "failed" else f"{failure.when} ({failure.outcome})"
    size = shown_size(failure.size) if failure.manifest else "not kept"
    moment = local_time(failure.time)[:16]  # to the minute
    return [failure.id, failure.nodeid, when, str(failure.change_count), size, moment]


def _summary(failure: Failure) -> dict[str, object]:
    """Return what `failures --json` tells: failure.json without its long lists."""
    long = ("changes", "commands", "processes", "containers", "env", "options")
    data = {key: value for key, value in failure.to_json().items() if key not in long}
    names = [kept.name for kept in failure.containers]
    return {**data, "changes": failure.change_count, "containers": names}


def _show(args: argparse.Namespace) -> int:
    with open_store(args) as store:
        failure = find_failure(store, args.failure)
    if args.json:
        print_json(failure.to_json())
        return 0
    status = painted(safe(failure.outcome), "red" if failure.outcome == "failed" else "green")
    print(heading(safe(f"{failure.id}  {failure.nodeid}")))
    when = f"{failure.when}, {local_time(failure.time)}, {failure.rootdir}"
    print(f"{status} in {safe(when)}")
    if failure.message:
        print(f"\n{_indented(failure.message)}")
    for kept in failure.containers:
        _show_container(kept, alone=len(failure.containers) == 1)
    for path in _added_files(failure):
        print(f"\nadded by a hook: {safe(str(path))}")
    if failure.manifest:
        print(f"\nwalk in: pytest-rootfs shell {failure.id}")
    return 0


def _added_files(failure: Failure) -> list[Path]:
    if failure.folder is None:
        return []
    return sorted(path for path in failure.folder.iterdir() if path.name != FILE)


def _show_container(kept: KeptContainer, *, alone: bool) -> None:
    print()
    if not alone:
        print(heading(f"container {safe(kept.name)}"))
    print(f"image     {safe(kept.image.name)} {safe(kept.image.digest)}")
    print(f"run as    {safe(kept.user)} in {safe(kept.workdir)}")
    print(f"limits    {safe(_limits(kept))}")
    for sentence in kept.limits_hit:
        print(f"          {painted(safe(sentence), 'red')}")
    if figures := _stats(kept):
        print(f"used      {safe(figures)}")
    print(f"rw layer  {shown_size(kept.size) if kept.manifest else 'not kept'}")
    for gap in kept.gaps:
        print(f"missing   {safe(gap)}")
    _show_commands(kept)
    _show_processes(kept)
    _show_changes(kept)


def _limits(kept: KeptContainer) -> str:
    shown_limits = []
    for key, value in kept.limits.items():
        if value is not None:
            shown_limits.append(f"{key} {_UNITS.get(key, format)(value)}")
    return ", ".join(shown_limits) or "none"


_UNITS: Mapping[str, Callable[[float], str]] = {
    "memory": shown_size,
    "disk": shown_size,
    "timeout": lambda seconds: f"{seconds:g} s",
}


def _stats(kept: KeptContainer) -> str:
    figures = []
    for key, value in kept.stats.items():
        if not value:  # None: no figure; zero: nothing to tell
            continue
        name = key.removesuffix("_bytes").removesuffix("_s").replace("_", " ")
        if key.endswith("_bytes"):
            figures.append(f"{name} {shown_size(value)}")
        elif key.endswith("_s"):
            figures.append(f"{name} {value:.2f} s")
        else:
            figures.append(f"{name} {value}")
    return ", ".join(figures)


def _show_commands(kept: KeptContainer) -> None:
    if not kept.commands:
        return
    print(f"\n{heading('commands')}")
    if (left_out := len(kept.commands) - _SHOWN_COMMANDS) > 0:
        print(f"  … {left_out} earlier ones: --json shows them")
    for command in kept.commands[-_SHOWN_COMMANDS:]:
        text = shlex.join(command["argv"])
        colour = "green" if command["returncode"] == 0 else "red"
        print(f"  $ {safe(text)}{_before(command)}")
        duration_s = command["duration_s"]
        after = "" if duration_s is None else f" after {duration_s:.3f} s"
        print(f"    {painted(ending(command), colour)}{after}")
        if tail := str(command.get("output_tail") or ""):
            print(_indented(tail, "    | "))


def _show_processes(kept: KeptContainer) -> None:
    if not kept.processes:
        return
    print(f"\n{heading('processes')}")
    for process in kept.processes:
        text = shlex.join(process.get("argv") or [])
        place = f"{process['pid']:>6} {safe(process.get('state', '?'))} uid {process.get('user')}"
        print(f"  {place}  {safe(text)}")
        for line in _open_files(process):
            print(f"         {line}")


def _open_files(process: Mapping[str, Any]) -> Iterator[str]:  # Any: JSON values
    """Yield what a process has open, but for pipes, devices and the like."""
    shown_targets = [
        f"{each['fd']} {safe(each['target'])}"
        for each in process.get("files") or ()
        if each["target"].startswith(("/", "tcp ", "udp ", "unix "))
        and not each["target"].startswith("/dev/")
    ]
    yield from shown_targets[:_SHOWN_FILES]
    if (left_out := len(shown_targets) - _SHOWN_FILES) > 0:
        yield f"… and {left_out} more: --json shows them"


def _show_changes(kept: KeptContainer) -> None:
    print(f"\n{heading(f'changes ({len(kept.changes)})')}")
    newest_first = sorted(kept.changes, key=lambda change: not change.get("since_test", True))
    for change in newest_first[:_SHOWN_CHANGES]:
        kind = str(change["kind"])
        letter = painted(CHANGE_LETTERS.get(kind, "?"), _COLOURS.get(kind, "bold"))
        print(f"  {letter} {safe(change['path'])}{_before(change)}")
    if (left_out := len(kept.changes) - _SHOWN_CHANGES) > 0:
        print(f"  … and {left_out} more: --json shows them")


def _before(entry: Mapping[str, object]) -> str:
    """Return the remark on what a shared container had before the test."""
    return "" if entry.get("since_test", True) else "  (before this test)"


def _indented(text: str, prefix: str = "  ") -> str:
    return "\n".join(f"{prefix}{safe(line)}" for line in text.rstrip("\n").split("\n"))


def _configure_show(parser: argparse.ArgumentParser) -> None:
    add_failure(parser)
    add_json(parser)


VERBS = {
    "failures": Verb(
        description="List the kept failures of this project, newest first.\n\nA failure belongs to "
        "the current folder when its pytest rootdir is that folder, above it or below it.",
        configure=_configure_failures,
        act=_failures,
        examples=("failures", "failures --all --json"),
    ),
    "show": Verb(
        description="Tell what happened: test, phase, message, image, limits, commands with the "
        "end of\ntheir output, processes, changes.",
        configure=_configure_show,
        act=_show,
        examples=("show last", "show f3a9c1 --json"),
    ),
}
