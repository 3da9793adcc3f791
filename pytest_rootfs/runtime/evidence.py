"""What a container tells of itself at a failure, at one moment: everything in it stands still.

What cannot be had is a gap, with the reason; nothing is raised for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pytest_rootfs.errors import RootfsError
from pytest_rootfs.runtime import branches
from pytest_rootfs.runtime.life import Life
from pytest_rootfs.runtime.limit_watch import Status
from pytest_rootfs.runtime.records import KeptFiles

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was found. `processes` and `mounts` are empty for a container that is dead."""

    processes: tuple[dict[str, Any], ...]  # Any: JSON values, here and below
    mounts: tuple[dict[str, Any], ...]
    stats: dict[str, Any]
    limits_hit: tuple[str, ...]
    files: KeptFiles
    gaps: tuple[str, ...]


def gather(
    life: Life, describe_limits: Callable[[Status], Sequence[str]], *, with_files: bool
) -> Evidence:
    """Look at everything; `with_files` puts the rw layer into the store as well."""
    gaps: list[str] = []
    with life.standing_still():
        scene = _ask(gaps, "processes", lambda: life.ask_if_alive("scene")) or {}
        status = _ask(gaps, "stats", lambda: _status(life)) or {}
        gone = _ask(gaps, "deleted files", lambda: branches.unlinked(life)) or ()
        files = None
        if with_files:
            files = _ask(gaps, "files", lambda: _kept(life, with_files=True))
        if files is None:  # of what cannot be kept, the list at least
            files = _ask(gaps, "changes", lambda: _kept(life, with_files=False))
    files = files or KeptFiles(changes=[])
    hits = _ask(gaps, "limits", lambda: describe_limits(status)) if status else None
    if more := scene.get("more_processes"):
        gaps.append(f"processes: {more} more are not listed")
    gaps += [f"files: left out: {each}" for each in (*files.skipped, *gone)]
    if files.refused:
        gaps.append(f"files: {files.refused}")
    return Evidence(
        processes=tuple(scene.get("processes", ())),
        mounts=tuple(scene.get("mounts", ())),
        stats=dict(status.get("stats", {})),
        limits_hit=tuple(hits or ()),
        files=files,
        gaps=tuple(gaps),
    )


def processes(life: Life) -> list[dict[str, Any]]:
    """Describe the processes (pid, ppid, user, state, argv); none when it is dead."""
    found: list[dict[str, Any]] = life.ask_if_alive("processes").get("processes", [])
    return found


def _status(life: Life) -> dict[str, Any]:
    life.require_rw_layer()
    return life.home.status(life.container)


def _kept(life: Life, *, with_files: bool) -> KeptFiles:
    life.require_rw_layer()
    return life.home.keep(life.container, with_files=with_files)


def _ask(gaps: list[str], subject: str, ask: Callable[[], _T]) -> _T | None:
    """Ask for a piece of evidence; if it cannot be had, note why and return None."""
    try:
        return ask()
    except (RootfsError, OSError) as error:
        gaps.append(f"{subject}: {str(error).splitlines()[0]}")
        return None
