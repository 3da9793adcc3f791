"""The files of a rw layer: compared, read and packed by jobs in the user namespace.

The layer is an open folder, `upper_fd`. The layers of a snapshot that lie between it and the image
are, to whoever asks what has changed since the image, a part of it.
"""

from __future__ import annotations

import contextlib
import json
import operator
import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_rootfs.errors import ContainerError
from pytest_rootfs.runtime.client import PeerGone, StepFailed
from pytest_rootfs.runtime.init_layer import OVERFLOW_ID
from pytest_rootfs.runtime.plan import Plan
from pytest_rootfs.runtime.records import KeptFiles
from pytest_rootfs.runtime.root_trees import HOST
from pytest_rootfs.runtime.session import Session
from pytest_rootfs.runtime.starts import SHORTAGES
from pytest_rootfs.store.blobs import Descriptor
from pytest_rootfs.store.media_types import LAYER_TYPE
from pytest_rootfs.store.store import Store
from pytest_rootfs.textdiff import LARGEST_BYTES, TooLarge


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A layer in the store, how many entries it has, and in words what it cannot hold."""

    layer: Descriptor
    entries: int
    skipped: tuple[str, ...]


class RwFiles:
    """Asks the jobs; `added_count` layers of the plan, the topmost, are of a snapshot."""

    def __init__(self, store: Store, session: Session, plan: Plan, *, added_count: int) -> None:
        self._store = store
        self._session = session
        self._plan = plan
        self._added_count = added_count

    def changes(self, upper_fd: int) -> list[dict[str, Any]]:  # Any: JSON values
        """Compare with the image; return ChangeRecords as JSON."""
        found = self._compare(upper_fd, digests=False)
        return [each for each in found if not self._is_of_the_start(each)]

    def digests(self, upper_fd: int) -> dict[str, str]:
        """Return the SHA-256 of the content of every changed file, by path."""
        return {each["path"]: each["sha256"] for each in self._compare(upper_fd, digests=True)}

    def read_base(self, path: str) -> tuple[str, bytes | TooLarge | None]:
        """Return a path with the image's links resolved, and the file there, None if none is."""
        layers = self._image_layers
        args = {"path": path, "max_bytes": LARGEST_BYTES}
        found, content = self._job_with_output("open_view", args, [], layers)
        if found["type"] is not None:
            return str(found["path"]), _content(found, content)
        folder, name = posixpath.split(path)
        if not name:
            return path, None
        args = {"path": folder, "max_bytes": LARGEST_BYTES}
        found, _ = self._job_with_output("open_view", args, [], layers)
        return posixpath.join(str(found.get("path", folder)), name), None

    def read_changed(self, upper_fd: int, path: str) -> bytes | TooLarge | None:
        """Return a file that the container has changed; None where there is no file."""
        args = {"path": path, "max_bytes": LARGEST_BYTES}
        found, content = self._job_with_output(
            "open_changed", args, [upper_fd], (), between=self._between
        )
        return _content(found, content)

    def pack(
        self,
        upper_fd: int,
        *,
        all_added: bool = True,
        clamp_mtime: int | None = None,
        durable: bool = False,
    ) -> Packed:
        """Write the rw layer to the store as one OCI layer, with `all_added` those added, too."""
        between = self._between if all_added else ()
        args = {
            "hidden": self._plan.hidden,
            "between": len(between),
            "clamp_mtime": clamp_mtime,
            "max_bytes": self._max_layer_bytes(1 + len(between)),
        }
        below = self._layers[len(between) :]
        with self._store.blobs.new(durable=durable) as writer:
            fds = [writer.fd, upper_fd]
            packed = self._job("pack_layer", args, fds, layers=below, between=between)
            layer = writer.adopt(
                digest=packed["diff_id"], size=packed["size"], media_type=LAYER_TYPE
            )
        return Packed(layer=layer, entries=packed["entries"], skipped=tuple(packed["skipped"]))

    def keep(self, upper_fd: int, *, with_files: bool) -> KeptFiles:
        """Compare, and `with_files` write all that has changed to the store, in one go.

        Not synced: a failure survives the end of pytest, not that of the machine.
        """
        between = self._between
        max_bytes = self._max_layer_bytes(1 + len(between))
        args = {**self._common, "max_bytes": max_bytes, "with_files": with_files}
        with contextlib.ExitStack() as opened:
            fds, writer = [upper_fd], None
            if with_files:
                writer = opened.enter_context(self._store.blobs.new(durable=False))
                fds.insert(0, writer.fd)
            kept, lines = self._job_with_output(
                "keep_layer", args, fds, self._image_layers, between=between
            )
            packed, layer = kept["packed"], None
            if packed and writer is not None:
                layer = writer.adopt(
                    digest=packed["diff_id"], size=packed["size"], media_type=LAYER_TYPE
                )
        found = sorted(map(json.loads, lines.splitlines()), key=operator.itemgetter("path"))
        return KeptFiles(
            changes=[each for each in found if not self._is_of_the_start(each)],
            layer=layer,
            refused=kept["refused"],
            skipped=tuple(packed["skipped"]) if packed else (),
        )

    def _compare(self, upper_fd: int, *, digests: bool) -> list[dict[str, Any]]:  # Any: as above
        args = {**self._common, "digests": digests}
        _, lines = self._job_with_output(
            "diff_layer", args, [upper_fd], self._image_layers, between=self._between
        )
        return [json.loads(line) for line in lines.splitlines()]

    def _max_layer_bytes(self, count: int) -> int:
        """Return how large a layer may become: sparse files of a runaway must not fill the host."""
        space = os.statvfs(self._store.root)
        free = space.f_bavail * space.f_frsize
        disk = self._plan.content["rw"].get("size")
        return free if disk is None else min(free, 4 * count * int(disk))

    def _is_of_the_start(self, change: Mapping[str, Any]) -> bool:  # Any: JSON values
        """Tell whether a change is what the start of the container has made.

        An ordinary user's view of the host has folders in the upper dir from the beginning, which
        differ from the host's in that their owner exists in the container. And `scratch` has no
        root folder to compare with.
        """
        before, after = change["before"], change["after"]
        if before is None or after is None:
            return bool(change["path"] == "/")
        is_view = HOST in self._layers and self._plan.content["host_tree"] < 0
        return (
            is_view
            and change["type"] == "dir"
            and OVERFLOW_ID in (before["uid"], before["gid"])
            and before["mode"] == after["mode"]
        )

    @property
    def _common(self) -> dict[str, object]:
        return {"hidden": self._plan.hidden, "between": len(self._between)}

    @property
    def _layers(self) -> Sequence[str]:
        """All layers below the rw layer, topmost first."""
        layers: Sequence[str] = self._plan.content["layers"]
        return layers

    @property
    def _between(self) -> Sequence[str]:
        """Those of a snapshot, topmost first."""
        return self._layers[: self._added_count]

    @property
    def _image_layers(self) -> Sequence[str]:
        return self._layers[self._added_count :]

    def _job(
        self,
        function: str,
        args: Mapping[str, object],
        fds: Sequence[int],
        *,
        layers: Sequence[str],
        between: Sequence[str],
    ) -> dict[str, Any]:
        """Run a job; raises ContainerError where there is no process for it."""
        what = "the files of the container cannot be looked at"
        try:
            return self._session.job(function, args, fds, layers=layers, between=between)
        except PeerGone as error:
            if self._session.is_alive:
                hint = "try again; `dmesg` tells whether this host has run out of memory"
                raise ContainerError(
                    f"{what}: the process that looks was killed", hint=hint
                ) from error
            hint = "the next container starts another one"
            raise ContainerError(f"{what}: the warden was killed", hint=hint) from error
        except StepFailed as error:
            if error.step != "job":
                raise  # it has begun, and found the files in its way
            raise ContainerError(
                f"{what}: {error}", hint=SHORTAGES.get(error.errno or 0, "")
            ) from error

    def _job_with_output(
        self,
        function: str,
        args: Mapping[str, object],
        fds: Sequence[int],
        layers: Sequence[str],
        *,
        between: Sequence[str] = (),
    ) -> tuple[dict[str, Any], bytes]:
        out_fd = os.memfd_create(function)
        try:
            all_fds = [out_fd, *fds]
            answer = self._job(function, args, all_fds, layers=layers, between=between)
            os.lseek(out_fd, 0, os.SEEK_SET)
            with open(out_fd, "rb", closefd=False) as stream:
                return answer, stream.read()
        finally:
            os.close(out_fd)


def _content(found: Mapping[str, Any], content: bytes) -> bytes | TooLarge | None:  # Any: JSON
    if found["type"] != "file":
        return None
    return content if found["size"] <= LARGEST_BYTES else TooLarge(found["size"])
