"""Wait until something holds in a container: a first look at once, then short growing pauses."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from pytest_rootfs.errors import ContainerError, RootfsError, shown

if TYPE_CHECKING:
    from pytest_rootfs.runtime.process import Process

FIRST_PAUSE_S = 0.001
LONGEST_PAUSE_S = 0.1
TAIL_LINES = 20

Pattern = str | bytes | re.Pattern[str] | re.Pattern[bytes]


class WaitTimeout(ContainerError, TimeoutError):
    """What was waited for did not come true in time."""

    __str__ = RootfsError.__str__
    __reduce__ = RootfsError.__reduce__


class Condition:
    """Something to wait for."""

    def holds(self, left_s: float) -> bool:
        """Look once, for at most so long; raises ContainerError when it can no longer come true."""
        raise NotImplementedError

    def pause(self, pause_s: float) -> None:
        """Wait so long, or until it is worth another look."""
        time.sleep(pause_s)

    def missing(self) -> str:
        """Say what does not hold, as a claim."""
        raise NotImplementedError

    def seen(self) -> str:
        """Say what was seen at the last look, in lines."""
        raise NotImplementedError


class SaidText(Condition):
    """A process has said a text on stdout or stderr; nothing that it says is lost by looking."""

    def __init__(self, process: Process, pattern: Pattern) -> None:
        self._process = process
        self._pattern = compiled(pattern)
        self._shown = repr(pattern if isinstance(pattern, (str, bytes)) else pattern.pattern)
        self.match: re.Match[Any] | None = None

    def holds(self, left_s: float) -> bool:  # noqa: ARG002  a look takes no time
        """Listen without waiting, and search; raises when it will say nothing more."""
        is_over = self._process.hear(0)
        self.match = next(filter(None, map(self._search, self._process.said())), None)
        if self.match is None and is_over:
            raise ContainerError(
                f"{self._process.ended()} without saying {self._shown}", detail=self.seen()
            )
        return self.match is not None

    def pause(self, pause_s: float) -> None:
        """Listen so long, or until it says something."""
        if self.match is None:
            self._process.hear(pause_s)
        else:
            super().pause(pause_s)  # another condition is waited for

    def missing(self) -> str:
        """Name the text."""
        return f"command {shown(self._process.args)} has not said {self._shown}"

    def seen(self) -> str:
        """Tell the last lines."""
        return last_output(self._process)

    def _search(self, said: bytes) -> re.Match[Any] | None:
        if isinstance(self._pattern.pattern, bytes):
            return self._pattern.search(said)
        text = said.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
        return self._pattern.search(text)


def until(
    conditions: Sequence[Condition],
    limit_s: float,
    *,
    subject: str,
    why_hopeless: Callable[[], str] = str,
    context: Callable[[], str] = str,
) -> None:
    """Return when all conditions hold, in one look.

    `why_hopeless` says why something that does not hold never will, "" while it may; `context` what
    else there is to tell of a failure. Raises WaitTimeout after `limit_s` seconds.
    """
    __tracebackhide__ = True
    deadline = time.monotonic() + limit_s

    def look() -> Condition | None:
        why = why_hopeless()  # asked first: what ends after the look may have made it hold
        for condition in conditions:
            if not condition.holds(deadline - time.monotonic()):
                if why:
                    detail = _lines(condition.seen(), context())
                    what = f"{subject}: {condition.missing()}, and never will: {why}"
                    raise ContainerError(what, detail=detail)
                return condition
        return None

    failing = look()
    if failing is not None:
        failing.pause(min(FIRST_PAUSE_S, limit_s))
        failing = _look_again(look, deadline)
    if failing is not None:
        raise WaitTimeout(
            f"{subject}: {failing.missing()} after {limit_s:g} s",
            detail=_lines(failing.seen(), context()),
            hint="raise timeout=… if it only needs longer",
        )


def _look_again(look: Callable[[], Condition | None], deadline: float) -> Condition | None:
    """Look until nothing fails or the time is over, with growing pauses; return what fails."""
    import tenacity  # noqa: PLC0415  takes 40 ms, and most things hold at the first look

    growing = tenacity.wait_exponential(multiplier=FIRST_PAUSE_S, max=LONGEST_PAUSE_S)
    failing: list[Condition] = []

    def attempt() -> Condition | None:
        found = look()
        failing[:] = [found] if found is not None else []
        return found

    def pause(pause_s: float) -> None:
        failing[0].pause(pause_s)

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_result(lambda found: found is not None),
        wait=lambda state: max(min(growing(state), deadline - time.monotonic()), 0),
        stop=lambda _: time.monotonic() >= deadline,
        sleep=pause,
        retry_error_callback=lambda _: failing[0],
    )
    found: Condition | None = retrying(attempt)
    return found


def compiled(pattern: object) -> re.Pattern[Any]:  # Any: of text or bytes
    """Return the expression that finds a text, or the expression itself; raises as `re` does."""
    if isinstance(pattern, re.Pattern):
        return pattern
    if not isinstance(pattern, (str, bytes)):
        raise TypeError(f"output is a text or a compiled expression, not {pattern!r}")
    if not pattern:
        raise ValueError(f"output={pattern!r} is no text to wait for")
    return re.compile(re.escape(cast("Any", pattern)))  # Any: `re` takes either, not a union


def last_output(process: Process | None) -> str:
    """Return the last lines that a process has said, under its name; "" for none."""
    if process is None:
        return ""
    process.overhear()
    said = b"".join(process.said()).decode("utf-8", "replace")
    return _lines(f"last output of {shown(process.args)}:", tail(said)) if said else ""


def tail(text: str) -> str:
    """Return the last lines of an output, indented."""
    return "\n".join(f"  {line}" for line in text.rstrip("\n").split("\n")[-TAIL_LINES:] if text)


def _lines(*parts: str) -> str:
    return "\n".join(dict.fromkeys(part for part in parts if part))
