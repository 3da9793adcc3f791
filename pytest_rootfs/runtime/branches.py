"""What can be made of a container's files: a snapshot, a way back, another container, an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_rootfs.runtime.life import Life
from pytest_rootfs.runtime.spec import checked_hostname
from pytest_rootfs.snapshots import Snapshot

if TYPE_CHECKING:
    from pytest_rootfs.runtime.container import Container


def snapshot(life: Life, name: str | None) -> Snapshot:
    """Keep the files as they are now; the processes stand still meanwhile."""
    if name is not None and (not isinstance(name, str) or not name):
        raise ValueError(f"name={name!r} is not a name")
    life.require_rw_layer()
    life.home.touch(life.container)
    with life.standing_still():
        gone = unlinked(life)
        return life.home.snapshot(life.container, name=name, not_kept=gone)


def reset(life: Life, to: Snapshot | None) -> int:
    """Begin anew with the files of the image or of a snapshot; return the pid of the new init."""
    if to is not None and not isinstance(to, Snapshot):
        raise TypeError(f"to={to!r} is not a Snapshot; without one, back to the image")
    if life.state == "closed":
        raise life.died()
    life.home.touch(life.container)
    return life.begin_anew(life.home.prepare_reset(life.container, to))


def fork(life: Life, name: str | None) -> Container:
    """Start another container with the files as they are now."""
    if name is not None:
        checked_hostname("name", name)  # commands see it as the host's
    return life.home.fork(life.container, snapshot(life, None), name)


def commit(life: Life, tag: str | None) -> Any:  # Any: an Image, which the runtime does not know
    """Make an image of the files as they are now."""
    life.require_rw_layer()
    life.home.touch(life.container)
    with life.standing_still():
        return life.home.commit(life.container, tag)


def unlinked(life: Life) -> tuple[str, ...]:
    """Say which files processes still use that have no name, and so no place in a layer."""
    return tuple(_not_kept(**each) for each in life.ask_if_alive("unlinked").get("files", ()))


def _not_kept(*, path: str, pid: int, name: str) -> str:
    process = f"process {pid} ({ascii(name)[1:-1]})"
    if path == "?":
        return f"which deleted files {process} holds open cannot be seen"
    shown = path if path.isprintable() else ascii(path)[1:-1]
    return f"`{shown.lstrip('/')}` is deleted and held open by {process}"
