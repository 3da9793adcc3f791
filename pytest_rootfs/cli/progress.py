"""Show how far a copy of layers is: a bar a layer on a terminal, else a line at start and end."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pytest_rootfs.cli.output import note
from pytest_rootfs.settings import short_digest

if TYPE_CHECKING:
    import rich.progress

    from pytest_rootfs.store.imports import Progress


@contextmanager
def shown_progress(what: str) -> Iterator[Progress]:
    """Give something to be told; `what` begins the line, such as `importing oci:/x`."""
    if not (sys.stderr.isatty() and os.environ.get("TERM") != "dumb"):
        yield _Lines(what)
        return
    from rich.console import Console  # noqa: PLC0415  only for terminals; 60 ms
    from rich.progress import (  # noqa: PLC0415  as above
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeElapsedColumn,
    )
    from rich.progress import Progress as Bars  # noqa: PLC0415  as above

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Bars(*columns, console=Console(stderr=True)) as bars:
        shown = _Bars(what, bars)
        yield shown
        shown.finish()


class _Lines:
    """One line at the start; whoever asked prints the one at the end."""

    def __init__(self, what: str) -> None:
        self._what = what

    def begin(self, layers: int) -> None:
        note(f"{self._what}: {layers} layers")

    def layer(self, digest: str, *, size: int | None, is_known: bool) -> None:
        pass

    def advance(self, size: int) -> None:
        pass


class _Bars:
    """A bar for every layer."""

    def __init__(self, what: str, bars: rich.progress.Progress) -> None:
        self._what = what
        self._bars = bars
        self._layers = 0
        self._number = 0
        self._current: rich.progress.TaskID | None = None

    def begin(self, layers: int) -> None:
        self._layers = layers
        self._bars.console.print(f"{self._what}: {layers} layers", highlight=False, markup=False)

    def layer(self, digest: str, *, size: int | None, is_known: bool) -> None:
        self.finish()
        self._number += 1
        known = ", in the store" if is_known else ""
        text = f"{self._number}/{self._layers} {short_digest(digest)}{known}"
        self._current = self._bars.add_task(text, total=0 if is_known else size)

    def advance(self, size: int) -> None:
        if self._current is not None:
            self._bars.advance(self._current, size)

    def finish(self) -> None:
        """Fill the bar of the layer that has just ended, whose size nobody may have known."""
        if self._current is None:
            return
        (task,) = (task for task in self._bars.tasks if task.id == self._current)
        self._bars.update(self._current, total=task.completed)
