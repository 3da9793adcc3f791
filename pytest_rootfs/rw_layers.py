"""The rw layer of one container, as the engine keeps it: compared, read, packed, given up."""

from __future__ import annotations

import errno
import json
import os
import posixpath
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pytest_rootfs.changeset import Change, Changes
from pytest_rootfs.errors import ContainerDied, ContainerError
from pytest_rootfs.runtime import protocol
from pytest_rootfs.runtime.client import PeerGone, StepFailed
from pytest_rootfs.runtime.container import Container
from pytest_rootfs.runtime.init_layer import OVERFLOW_ID
from pytest_rootfs.runtime.plan import Plan
from pytest_rootfs.runtime.root_trees import HOST
from pytest_rootfs.runtime.session import Created, Session
from pytest_rootfs.runtime.subordinate_ids import Gap
from pytest_rootfs.settings import shown_size
from pytest_rootfs.store.blobs import Descriptor
from pytest_rootfs.store.media_types import LAYER_TYPE
from pytest_rootfs.store.store import Store


class RwLayer:
    """What outlives a container's processes: its upper dir, held by the spawner."""

    def __init__(
        self,
        *,
        store: Store,
        session: Session,
        plan: Plan,
        open_trees: Callable[[], list[int]],
        may_limit: Callable[[str, float | None], bool],
        touch: Callable[[Container], None],
        forget: Callable[[Container], None],
    ) -> None:
        self._store = store
        self._session = session
        self._plan = plan
        self._open_trees = open_trees
        self._may_limit = may_limit
        self._forget = forget
        self.touch = touch

    @property
    def id_gap(self) -> Gap:
        """Why some ids do not exist in the container; empty when all 65536 do."""
        return self._session.ids.gap

    def status(self, container: Container, *, wait_s: float = 0) -> dict[str, Any]:
        """Return the exit status of init, None while it lives, and the figures."""
        return self._call(container, "status", wait_s=wait_s)

    def limit(self, container: Container, key: str, value: float | None) -> None:
        """Change a limit; where it cannot be enforced the session's policy says what happens."""
        if not self._may_limit(key, value):
            return
        try:
            self._call(container, "limit", key=key, value=value)
        except ContainerError as error:
            cause = error.__cause__
            if value is None or not isinstance(cause, StepFailed) or cause.errno != errno.EBUSY:
                raise
            raise self._in_use(container, key, value) from cause

    def freeze(self, container: Container, *, frozen: bool) -> None:
        """Let the container's cgroup stand still, or go on, where it is of version 2."""
        self._call(container, "freeze", frozen=frozen)

    def restart(self, container: Container) -> Created:
        """Kill every process and begin anew, with the host's folders as they are now."""
        trees = self._open_trees()
        try:
            plan = self._plan
            return self._session.restart(container.id, plan.key, plan.content, trees)
        except PeerGone as error:
            raise _lost(container, error) from error
        finally:
            protocol.close_all(trees)

    def kill(self, container: Container, *, release: bool) -> None:
        """Kill every process; returns when the pid namespace is gone."""
        try:
            self._call(container, "kill", release=release)
        except ContainerDied:
            pass  # the spawner is gone, and so is every container
        if release:
            self._forget(container)

    def release(self, container: Container) -> None:
        """Give up the rw layer; does not wait, as nothing of the container runs any more."""
        try:
            self._session.spawner.ask({"op": "release", "id": container.id}).close()
        except PeerGone:
            pass  # as above
        self._forget(container)

    def changes(self, container: Container) -> Changes:
        """Compare with the image's layers."""
        args = {"hidden": self._plan.hidden}
        upper_fd = self._open_upper(container)
        try:
            _, lines = self._job_with_output("diff_layer", args, [upper_fd], self._layers)
        finally:
            os.close(upper_fd)
        found = (Change(**json.loads(line)) for line in lines.splitlines())
        return Changes(change for change in found if not self._is_of_the_start(change))

    def read_base(self, path: str) -> tuple[str, bytes | None]:
        """Return a path with the image's links resolved, and the file there, None if none is."""
        found, content = self._job_with_output("open_view", {"path": path}, [], self._layers)
        if found["type"] is not None:
            return str(found["path"]), content if found["type"] == "file" else None
        folder, name = posixpath.split(path)
        if not name:
            return path, None
        found, _ = self._job_with_output("open_view", {"path": folder}, [], self._layers)
        return posixpath.join(str(found.get("path", folder)), name), None

    def read_changed(self, container: Container, path: str) -> bytes | None:
        """Return a file that the container has changed; None where there is no file."""
        upper_fd = self._open_upper(container)
        try:
            found, content = self._job_with_output("open_view", {"path": path}, [upper_fd], ())
        finally:
            os.close(upper_fd)
        return content if found["type"] == "file" else None

    def pack_counted(
        self, container: Container, *, clamp_mtime: int | None
    ) -> tuple[Descriptor, int]:
        """Write the rw layer to the store as an OCI layer; tell how many entries it has."""
        args = {
            "hidden": self._plan.hidden,
            "clamp_mtime": clamp_mtime,
            "max_bytes": self._max_layer_bytes(),
        }
        upper_fd = self._open_upper(container)
        try:
            with self._store.blobs.new() as writer:
                fds = [writer.fd, upper_fd]
                packed = self._session.job("pack_layer", args, fds, layers=self._layers)
                descriptor = writer.adopt(
                    digest=packed["diff_id"], size=packed["size"], media_type=LAYER_TYPE
                )
        finally:
            os.close(upper_fd)
        return descriptor, int(packed["entries"])

    def _max_layer_bytes(self) -> int:
        """Return how large a layer may become: sparse files of a runaway must not fill the host."""
        space = os.statvfs(self._store.root)
        free = space.f_bavail * space.f_frsize
        disk = self._plan.content["rw"].get("size")
        return free if disk is None else min(free, 4 * int(disk))

    def _is_of_the_start(self, change: Change) -> bool:
        """Tell whether a change is what the start of the container has made.

        An ordinary user's view of the host has folders in the upper dir from the beginning, which
        differ from the host's in that their owner exists in the container. And `scratch` has no
        root folder to compare with.
        """
        if change.before is None or change.after is None:
            return change.path == "/"
        is_view = HOST in self._layers and self._plan.content["host_tree"] < 0
        owner = change.before["uid"], change.before["gid"]
        return (
            is_view
            and change.type == "dir"
            and OVERFLOW_ID in owner
            and change.before["mode"] == change.after["mode"]
        )

    @property
    def _layers(self) -> Sequence[str]:
        layers: Sequence[str] = self._plan.content["layers"]
        return layers

    def _job_with_output(
        self, function: str, args: Mapping[str, object], fds: Sequence[int], layers: Sequence[str]
    ) -> tuple[dict[str, Any], bytes]:
        out_fd = os.memfd_create(function)
        try:
            answer = self._session.job(function, args, [out_fd, *fds], layers=layers)
            os.lseek(out_fd, 0, os.SEEK_SET)
            with open(out_fd, "rb", closefd=False) as stream:
                return answer, stream.read()
        finally:
            os.close(out_fd)

    def _in_use(self, container: Container, key: str, value: float) -> ContainerError:
        """Return the error for a limit below what is in use."""
        status = self.status(container)
        used = {"memory": status["stats"]["memory_bytes"], "disk": status["disk_used_bytes"]}[key]
        return ContainerError(
            f"cannot lower the limit {key} of container {container.name} to {shown_size(value)}: "
            f"{shown_size(used)} are in use",
            hint="delete files first: those of the rw layer count"
            + (", and so do processes" if key == "memory" else ""),
        )

    def _open_upper(self, container: Container) -> int:
        _, fds = self._ask(container, "upper")
        return fds[0]

    def _call(self, container: Container, op: str, **details: object) -> dict[str, Any]:
        answer, _ = self._ask(container, op, **details)
        return answer

    def _ask(
        self, container: Container, op: str, **details: object
    ) -> tuple[dict[str, Any], list[int]]:
        message = {"op": op, "id": container.id, **details}
        try:
            return self._session.spawner.call(message)
        except (PeerGone, StepFailed) as error:
            if isinstance(error, StepFailed) and error.errno != errno.ESRCH:
                raise ContainerError(f"container {container.name}: {error}") from error
            raise _lost(container, error) from error


def _lost(container: Container, error: Exception) -> ContainerDied:
    return ContainerDied(
        f"container {container.name} was lost: the process that holds it is gone",
        detail=str(error),
    )
