"""Build an unpacked layer aside, and give it its name when it is complete."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias, final  # Any: decoded JSON only

from pytest_rootfs.errors import LayerCorrupt
from pytest_rootfs.store.blobs import HEAL
from pytest_rootfs.store.digests import hex_of
from pytest_rootfs.store.locks import claim_folder, fresh_name
from pytest_rootfs.store.trees import remove_tree

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

SYNCED = "synced"
"""The file beside `meta.json` of a layer that is known to be on the disk."""
SETTLING_S = 60.0

Owner: TypeAlias = "tuple[int, int] | None"
"""Uid and gid, on the host, of the container's root; None when that is whoever runs this."""


@final
class StagedLayer:
    """An unpacked layer in the making; a context manager that discards unless published."""

    def __init__(
        self, root: Path, layers: Path, owner: Owner, *, hold: Callable[[str], None]
    ) -> None:
        self._root = root
        self._layers = layers
        self._hold = hold
        self._path, self._lock_fd = claim_folder(root / "tmp")
        self.fd = -1
        with ExitStack() as undo:
            undo.callback(self.discard)
            (self._path / "fs").mkdir(mode=0o755)
            self.fd = os.open(self._path / "fs", FOLDER_FLAGS)
            give(self.fd, owner)
            os.fchmod(self.fd, 0o755)
            give(self._lock_fd, owner)
            undo.pop_all()

    def __enter__(self) -> StagedLayer:
        """Discard on exit, unless published."""
        return self

    def __exit__(self, *exception: object) -> None:
        self.discard()

    def publish(self, diff_id: str, meta: dict[str, Any], *, name: str | None = None) -> None:
        """Make this the layer `diff_id`; whoever loses a race drops its copy and succeeds.

        A tree that fits only the layers below it is kept under the chain's `name` instead. `meta`
        is what unpacking returned. Raises LayerCorrupt if it found another diffID.
        """
        found = meta.get("diff_id", diff_id)
        if found != diff_id:
            raise LayerCorrupt(
                f"layer {diff_id} is damaged",
                detail=f"its content has the diffID {found}",
                hint=HEAL,
            )
        text = json.dumps({**meta, "diff_id": diff_id, "boot_id": boot_id()}, sort_keys=True)
        (self._path / "meta.json").write_text(text + "\n")
        name = name or diff_id
        self._hold(name)
        try:
            self._rename(self._layers / hex_of(name))
        finally:
            self.discard()

    def discard(self) -> None:
        """Drop what was staged; idempotent. What cannot be removed here is left to `gc`."""
        if self._lock_fd < 0:
            return
        fds, self.fd, self._lock_fd = (self.fd, self._lock_fd), -1, -1
        try:
            if self._path.exists():
                _throw_away(self._path, self._root / "trash")
        finally:
            for fd in fds:
                if fd >= 0:
                    os.close(fd)

    def _rename(self, target: Path) -> None:
        try:
            self._path.rename(target)
        except OSError:
            if not target.exists():
                raise
            if is_whole(target):
                return
            # Left from before the machine stopped and never synced: nobody trusts or uses it.
            _throw_away(target, self._root / "trash")
            self._path.rename(target)


def layer_rel(diff_id: str) -> str:
    """Return the path of a layer's files, relative to `layers/<idmap>/`."""
    return f"{hex_of(diff_id)}/fs"


@lru_cache(maxsize=1)
def boot_id() -> str:
    """Return the kernel's name for the time since it last started."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def give(fd: int, owner: Owner) -> None:
    """Make `owner` the owner of an open file, unless it is or None is given."""
    found = os.fstat(fd)
    if owner is not None and owner != (found.st_uid, found.st_gid):
        os.fchown(fd, *owner)


def is_whole(layer: Path) -> bool:
    """Tell whether an unpacked layer is all there: synced, or unpacked since the machine started.

    Publishing does not sync: it would take seconds, in the way of the first test.
    """
    try:
        meta = json.loads((layer / "meta.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    return meta.get("boot_id") == boot_id() or (layer / SYNCED).exists()


def sync_settled(layers: Iterable[Path]) -> int:
    """Make layers survive a crash of the machine, once they cost little; return how many.

    The kernel writes data within half a minute (vm.dirty_expire_centisecs), so a minute after
    unpacking syncfs(2) has little left to do: milliseconds, where it took half a second for a layer
    of 140 MB at once.
    """
    settled = [each for each in layers if _is_settled(each)]
    if not settled:
        return 0
    from pytest_rootfs.kernel import syscalls  # noqa: PLC0415  the store itself has no ctypes

    folder_fd = os.open(settled[0], FOLDER_FLAGS)
    try:
        syscalls.syncfs(folder_fd)
    finally:
        os.close(folder_fd)
    for layer in settled:
        (layer / SYNCED).touch()
    return len(settled)


def _is_settled(layer: Path) -> bool:
    try:
        age_s = time.time() - (layer / "meta.json").stat().st_mtime
    except FileNotFoundError:
        return False  # collected meanwhile
    return age_s > SETTLING_S and not (layer / SYNCED).exists()


def _throw_away(path: Path, trash: Path) -> None:
    """Move a tree to the trash and remove it there, as far as its owners let us."""
    target = trash / fresh_name()
    path.rename(target)
    try:
        remove_tree(target)
    except PermissionError:
        # Files of subordinate ids: `collect.gc` removes them from inside the user namespace.
        return
