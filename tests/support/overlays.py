"""Change a merged view of layers the way a container would, and compare and pack what is left."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from archives import Item, archive, entries
from namespaced import in_user_namespace
from snapshots import Snapshot, snapshot

from pytest_rootfs.kernel import mounts, syscalls
from pytest_rootfs.store.changes import ChangeRecord, PackResult, diff, pack
from pytest_rootfs.store.entries import Entry
from pytest_rootfs.store.layers import UnpackLimits, UnpackResult, unpack
from pytest_rootfs.store.uppers import Sides

Mutation = Callable[[], None]
FLAGS = os.O_RDONLY | os.O_DIRECTORY


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a mutation left."""

    changes: list[ChangeRecord]
    archive: bytes
    packed: PackResult

    @property
    def kinds(self) -> dict[str, str]:
        """Map changed paths to the kind of change."""
        return {record.path: record.kind for record in self.changes}

    @property
    def entries(self) -> dict[str, tuple[Entry, bytes]]:
        """Map the packed layer's names to their entries and contents."""
        return entries(self.archive)


def outcome_of(
    tmp_path: Path,
    layers: Sequence[bytes | Sequence[Item]],
    mutation: Mutation,
    *,
    hidden: Sequence[bytes] = (),
    clamp_mtime: int | None = None,
    upper_attributes: Sequence[tuple[str, str, bytes]] = (),
) -> Outcome:
    """Unpack `layers` (bottom first), call `mutation` in their merged view, compare and pack.

    `upper_attributes` (path, name, value) are set on the raw upper folder afterwards.
    """

    def job() -> Outcome:
        layer_fds = unpack_all(tmp_path, [_content(layer) for layer in layers])
        place = mount_upper(tmp_path)
        upper, work, merged = place / "up", place / "work", place / "merged"
        mount_overlay(layer_fds, upper, work, merged)
        home = os.getcwd()
        os.chdir(merged)
        try:
            mutation()
        finally:
            os.chdir(home)
        for path, name, value in upper_attributes:
            os.setxattr(upper / path, name, value)
        return look(upper, layer_fds, hidden=hidden, clamp_mtime=clamp_mtime)

    return in_user_namespace(job)


def unpack_all(tmp_path: Path, contents: Sequence[bytes]) -> list[int]:
    """Unpack archives, bottom first, each over the last; return their folders, topmost first."""
    fds: list[int] = []
    for number, content in enumerate(contents):
        folder = tmp_path / f"layer-{number}"
        folder.mkdir()
        fd = os.open(folder, FLAGS)
        below_fd = mounts.overlay_view(fds) if fds else -1
        unpack(io.BytesIO(content), fd, squash_ids=not is_multi_id(), below_fd=below_fd)
        fds.insert(0, fd)
    return fds


def unpacked(
    tmp_path: Path,
    content: bytes,
    *,
    squash_ids: bool | None = None,
    below_fd: int | None = -1,
    limits: UnpackLimits | None = None,
) -> tuple[UnpackResult, Snapshot]:
    """Unpack into `fs`, with the ids that there are unless said otherwise.

    Return the result, and the tree as seen from inside.
    """
    target = tmp_path / "fs"
    target.mkdir()

    def job() -> tuple[UnpackResult, Snapshot]:
        target_fd = os.open(target, FLAGS)
        squash = not is_multi_id() if squash_ids is None else squash_ids
        source = io.BytesIO(content)
        result = unpack(source, target_fd, squash_ids=squash, below_fd=below_fd, limits=limits)
        return result, snapshot(target_fd)

    return in_user_namespace(job)


def view_of(tmp_path: Path, contents: Sequence[bytes]) -> Snapshot:
    """Unpack archives, bottom first, and return what their merged view holds."""

    def job() -> Snapshot:
        (tmp_path / "layers").mkdir()
        view_fd = mounts.overlay_view(unpack_all(tmp_path / "layers", contents))
        return snapshot(view_fd)

    return in_user_namespace(job)


def _content(layer: bytes | Sequence[Item]) -> bytes:
    return layer if isinstance(layer, bytes) else archive(*layer)


def is_multi_id() -> bool:
    return (
        len(Path("/proc/self/uid_map").read_text().split()) == 3
        and " 65536" in Path("/proc/self/uid_map").read_text()
    )


def mount_upper(tmp_path: Path) -> Path:
    """Mount a tmpfs with the folders that an overlay writes to."""
    place = tmp_path / "rw"
    place.mkdir()
    syscalls.mount("rw", bytes(place), "tmpfs", 0, "mode=755")
    for name in ("up", "work", "merged"):
        (place / name).mkdir()
    return place


def mount_overlay(layer_fds: Sequence[int], upper: Path, work: Path, merged: Path) -> None:
    view_fd = mounts.overlay_view(layer_fds)
    found = os.stat(".", dir_fd=view_fd)
    os.chown(upper, found.st_uid, found.st_gid)
    os.chmod(upper, found.st_mode & 0o7777)
    os.close(view_fd)
    upper_fd, work_fd = os.open(upper, FLAGS), os.open(work, FLAGS)
    overlay_fd = mounts.overlay(layer_fds, upper_fd=upper_fd, work_fd=work_fd)
    syscalls.move_mount(overlay_fd, str(merged))
    for fd in (upper_fd, work_fd, overlay_fd):
        os.close(fd)


def look(
    upper: Path,
    layer_fds: Sequence[int],
    *,
    hidden: Sequence[bytes] = (),
    clamp_mtime: int | None = None,
) -> Outcome:
    base_fd = mounts.overlay_view(layer_fds) if layer_fds else -1
    upper_fd = os.open(upper, FLAGS)
    out = io.BytesIO()
    sides = Sides(upper_fd=upper_fd, base_fd=base_fd, hidden=hidden)
    changes = list(diff(sides))
    packed = pack(sides, out, clamp_mtime=clamp_mtime)
    return Outcome(changes=changes, archive=out.getvalue(), packed=packed)
