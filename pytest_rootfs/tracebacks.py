"""Shape what pytest reports of an error: our own frames are left out, secrets are hidden.

Imported by the first phase of a test that raises, or of a container that holds secrets.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast  # Any: reports; only the plugin imports pytest

if TYPE_CHECKING:
    from pytest_rootfs.secret_values import SecretValues


@contextmanager
def own_frames_hidden(error: BaseException) -> Iterator[None]:
    """Leave our frames, and what it was raised from, out of the traceback of an error of ours.

    Any other error is a defect of ours, or passes through, and keeps its full traceback.
    """
    errors = sys.modules.get("pytest_rootfs.errors")
    if errors is None or not isinstance(error, errors.RootfsError):
        yield
        return
    modules = [module for name, module in sys.modules.items() if name.startswith("pytest_rootfs")]
    for module in modules:
        vars(module)["__tracebackhide__"] = True
    cause = error.__cause__
    if isinstance(cause, (OSError, errors.RootfsError)):  # the sentence says it all
        error.__cause__ = None
    try:
        yield
    finally:
        error.__cause__ = cause
        for module in modules:
            vars(module).pop("__tracebackhide__", None)


def drop_remark(report: Any) -> None:
    """Leave out pytest's remark that it hides every frame: there is nothing in them to see."""
    for traceback, *_ in getattr(report.longrepr, "chain", ()):
        if str(traceback.extraline).startswith("All traceback entries are hidden"):
            traceback.extraline = None


def give_lines(interrupt: BaseException) -> None:
    """Give each entry of an interrupt's tracebacks a line, where it has none that of its function.

    Before CPython 3.12 a loop may end in a jump without a line. A signal is handled at jumps, and
    pytest, which cannot show such an entry, would end with an internal error.
    """
    error: BaseException | None = interrupt
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        entry = error.__traceback__
        while entry is not None and (inner := entry.tb_next) is not None:
            # 3.11 says None, 3.10 -1
            if (cast("int | None", inner.tb_lineno) or -1) < 0:
                line = inner.tb_frame.f_code.co_firstlineno
                inner = TracebackType(inner.tb_next, inner.tb_frame, inner.tb_lasti, line)
                entry.tb_next = inner
            entry = inner
        error = error.__cause__ or error.__context__


def hide_secrets(report: Any, secrets: SecretValues) -> None:
    """Hide secrets in all that a report says: traceback, captured output, properties."""
    if isinstance(report.longrepr, str):
        report.longrepr = secrets.hidden(report.longrepr)
    elif report.longrepr is not None:
        report.longrepr = _hidden(report.longrepr, secrets)
        if (text := str(report.longrepr)) != secrets.hidden(text):  # of another plugin's kind
            report.longrepr = secrets.hidden(text)
    report.sections = [(name, secrets.hidden(text)) for name, text in report.sections]
    report.user_properties = [
        (name, secrets.hidden_json(it)) for name, it in report.user_properties
    ]


def _hidden(value: Any, secrets: SecretValues) -> Any:
    """Hide secrets in pytest's own description of an error, part by part."""
    if isinstance(value, str):
        return secrets.hidden(value)
    if isinstance(value, (list, tuple)):
        return type(value)(_hidden(each, secrets) for each in value)
    if type(value).__module__ == "_pytest._code.code":
        for name, each in vars(value).items():
            vars(value)[name] = _hidden(each, secrets)
    return value
