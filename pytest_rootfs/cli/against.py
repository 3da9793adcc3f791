"""What a failed container is compared with, and which paths may differ.

Against its image these are its changes; against another container of the same image the changes of
either; else all names in the layers that the two do not share.
"""

from __future__ import annotations

import itertools
import operator
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pytest_rootfs.cli.sessions import find_failure
from pytest_rootfs.cli.verbs import NotFound
from pytest_rootfs.errors import RootfsError
from pytest_rootfs.failure_start import require_files
from pytest_rootfs.failures import Failure, Failures, KeptContainer
from pytest_rootfs.store.layers import OPAQUE, WHITEOUT
from pytest_rootfs.store.tar_reader import read_entries

if TYPE_CHECKING:
    from pytest_rootfs.store.store import Store

IMAGE, PASS = "image", "pass"
_OURS = {"/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}
"""Files that every container gets; what an image has there is not seen."""


def find_other(
    store: Store, failure: Failure, kept: KeptContainer, wanted: str
) -> KeptContainer | None:
    """Return the kept container to compare with; None is the image."""
    if wanted == IMAGE:
        return None
    other = _last_pass(store, failure) if wanted == PASS else find_failure(store, wanted)
    found = other.container(kept.name)
    if found is None:  # names that nobody has given differ from run to run
        position = failure.containers.index(kept)
        found = next(iter(other.containers[position : position + 1]), None)
    if found is None:
        raise NotFound(
            f"failure {other.id} has no container like {kept.name!r} of {failure.id}",
            detail=f"its containers: {', '.join(each.name for each in other.containers)}",
            hint=f"see what it has: pytest-rootfs show {other.id}",
        )
    require_files(other, found)
    if found.image.is_host != kept.image.is_host:
        raise RootfsError(
            f"{failure.id} and {other.id} cannot be compared: one lies on this host's own root "
            "directory, the other on an image",
            hint=f"compare each with its image: pytest-rootfs diff {failure.id}",
        )
    return found


def _last_pass(store: Store, failure: Failure) -> Failure:
    for each in Failures(store).list():
        same_test = (each.nodeid, each.rootdir) == (failure.nodeid, failure.rootdir)
        if same_test and each.outcome == "passed":
            return each
    raise NotFound(
        f"no pass of {failure.nodeid} is kept",
        hint="keep passes, too, and run the test again when it passes: pytest --rootfs-keep all",
    )


def differing_paths(store: Store, kept: KeptContainer, other: KeptContainer | None) -> list[str]:
    """Return the paths that may differ, sorted; folders stand for what is in one of the two."""
    paths = {str(change["path"]) for change in kept.changes}
    if other is None:
        return sorted(paths)
    if other.image.layers == kept.image.layers:
        return sorted(paths | {str(change["path"]) for change in other.changes})
    ours, theirs = ((*each.image.layers, each.layer) for each in (kept, other))
    shared = sum(1 for _ in itertools.takewhile(bool, map(operator.eq, ours, theirs)))
    named = {
        name for digest in (*ours[shared:], *theirs[shared:]) for name in _names(store, digest)
    }
    return sorted(named - _OURS)


def _names(store: Store, digest: str) -> Iterator[str]:
    """Yield the path of every entry of a layer; of a whiteout, what it deletes."""
    with store.blobs.open(digest) as file:
        for entry, _ in read_entries(file):
            folder, _, name = entry.name.rpartition(b"/")
            if name.startswith(WHITEOUT) and name != OPAQUE:
                name = name[len(WHITEOUT) :]
            inside = folder if name == OPAQUE else folder + b"/" + name if folder else name
            if inside not in (b"", b"."):
                yield f"/{os.fsdecode(inside)}"
