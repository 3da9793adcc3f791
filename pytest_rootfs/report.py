"""Write the texts of a report: the sections of a failure, how changes differ.

Text in, text out: nothing here asks a container or the host. What came out of a container is
escaped, so that a file name or a program cannot steer the terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pytest_rootfs.settings import escaped

if TYPE_CHECKING:
    from pytest_rootfs.failure_record import KeptContainer

MAX_CHANGES = 50
MAX_COMMANDS = 10
MAX_OUTPUT = 10

Entry = Mapping[str, Any]  # Any: a flat JSON object out of a failure's record
Section = tuple[str, str]


def sections(containers: Sequence[KeptContainer]) -> list[Section]:
    """Return the sections of a failed report, those without content left out."""
    texts = (
        ("rootfs changes", _blocks(containers, _changes, limit=MAX_CHANGES)),
        ("rootfs commands", _blocks(containers, _commands)),
        ("rootfs limits", _blocks(containers, lambda kept: map(escaped, kept.limits_hit))),
        ("rootfs failure", _blocks(containers, lambda kept: map(escaped, kept.gaps))),
    )
    return [(name, text) for name, text in texts if text]


def explain_changes(actual: Mapping[str, object], expected: Mapping[str, object]) -> list[str]:
    """Say how changes differ from others, or from a dict of path to kind: a path a line."""
    lines = []
    for path in sorted({*actual, *expected}, key=str):
        shown = escaped(str(path))
        if path not in actual:
            lines.append(f"missing     {shown} ({_kind(expected[path])})")
        elif path not in expected:
            lines.append(f"unexpected  {shown} ({_kind(actual[path])})")
        elif difference := _difference(actual[path], expected[path]):
            lines.append(f"differs     {shown} ({difference})")
    what = "1 path" if len(lines) == 1 else f"{len(lines)} paths"
    return [f"the changes differ from the expected ones in {what}", *sorted(lines, key=_rank)]


def _rank(line: str) -> int:
    return ("missing", "unexpected", "differs").index(line.split(maxsplit=1)[0])


def _kind(change: object) -> object:
    return getattr(change, "kind", change)


def _difference(actual: object, expected: object) -> str:
    """Say how two changes of one path differ; each is a `Change` or only its kind."""
    if _kind(actual) != _kind(expected):
        return f"is {_kind(actual)}, expected {_kind(expected)}"
    if not hasattr(actual, "kind") or not hasattr(expected, "kind"):
        return ""
    pairs = (
        (name, getattr(actual, name), getattr(expected, name))
        for name in ("type", "before", "after")
    )
    return "; ".join(f"{name}: {is_}, expected {want}" for name, is_, want in pairs if is_ != want)


def _blocks(
    containers: Sequence[KeptContainer],
    describe: Callable[[KeptContainer], Iterable[str]],
    limit: int | None = None,
) -> str:
    """Join what there is to say of each container; several are told apart by a line above."""
    lines: list[str] = []
    for kept in containers:
        block = list(describe(kept))
        if block and len(containers) > 1:
            lines.append(f"container {escaped(kept.name)} ({escaped(kept.image.name)}):")
        lines += block
    if limit is not None and len(lines) > limit:
        left_out = len(lines) - (limit - 1)
        lines[limit - 1 :] = [f"… and {left_out} more"]
    return "\n".join(lines)


def _changes(kept: KeptContainer) -> Iterable[str]:
    changes = [change for change in kept.changes if change.get("since_test", True)]
    for change in changes:
        path = escaped(str(change["path"]))
        slash = "/" if change.get("type") == "dir" and path != "/" else ""
        yield f"{change['kind']:8}  {path}{slash}"
    if before := len(kept.changes) - len(changes):
        yield f"… {before} from before this test"


def _commands(kept: KeptContainer) -> Iterable[str]:
    import shlex  # noqa: PLC0415  the header needs this module, but not that one

    commands = [each for each in kept.commands if each.get("since_test", True)]
    if before := len(kept.commands) - len(commands):
        yield f"… {before} from before this test"
    left_out = len(commands) - MAX_COMMANDS
    if left_out > 0:
        yield f"… {left_out} earlier commands"
    for command in commands[-MAX_COMMANDS:]:
        argv = command["argv"]
        typed = argv if isinstance(argv, str) else shlex.join(map(str, argv))
        yield f"$ {escaped(typed)}  [{_ending_after(command)}]"
        tail = str(command.get("output_tail") or "").splitlines()
        if len(tail) > MAX_OUTPUT:
            yield "  …"
        yield from (f"  {escaped(line)}" for line in tail[-MAX_OUTPUT:])


def _ending_after(command: Entry) -> str:
    duration_s = command.get("duration_s")
    return ending(command) if duration_s is None else f"{ending(command)}, {duration_s:.2f} s"


def ending(command: Entry) -> str:
    """Say how a command ended."""
    returncode = command.get("returncode")
    if command.get("timed_out"):
        return "timed out, killed"
    if returncode is None:
        return "still running" if command.get("started", True) else "not started"
    if returncode >= 0:
        return f"exit status {returncode}"
    from pytest_rootfs.errors import signal_name  # noqa: PLC0415  a failure only

    return f"killed by {signal_name(-returncode)}"
