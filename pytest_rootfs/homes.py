"""What the engine does for a container: its figures, limits and files, and its next beginning."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pytest_rootfs import commits
from pytest_rootfs.changeset import Change, Changes
from pytest_rootfs.errors import ContainerDied, ContainerError, LayerCorrupt
from pytest_rootfs.golden import GoldenFolder
from pytest_rootfs.image import Image
from pytest_rootfs.runtime import protocol, starts
from pytest_rootfs.runtime.client import PeerGone, StepFailed
from pytest_rootfs.runtime.container import Container
from pytest_rootfs.runtime.gaps import Gap
from pytest_rootfs.runtime.plan import Plan
from pytest_rootfs.runtime.records import KeptFiles
from pytest_rootfs.runtime.session import Created, Session
from pytest_rootfs.rw_files import RwFiles
from pytest_rootfs.settings import short_digest, shown_size
from pytest_rootfs.snapshots import Snapshot
from pytest_rootfs.store.blobs import Descriptor
from pytest_rootfs.store.store import Store
from pytest_rootfs.textdiff import TooLarge

ADDED_MAX = 64
"""Layers on top of an image: a snapshot on that many more becomes one (an overlay takes 500)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What a home itself takes from the engine."""

    plan: Callable[[Sequence[str]], Plan]
    """Return the container's plan with layers on top of the image, bottom first, all unpacked."""

    open_trees: Callable[[Plan], list[int]]
    may_limit: Callable[[str, float | None], bool]
    fork: Callable[[Container, Sequence[str], str | None], Container]
    tag: Callable[[str, str], object]
    """Give the image with a digest a name."""

    touch: Callable[[Container], None]
    forget: Callable[[Container], None]
    note_env: Callable[[Mapping[str, str]], None]
    golden_folder: Callable[[], GoldenFolder | None]


class ContainerHome:
    """The `Home` of a container: its rw layer outlives its processes, held by the spawner.

    `added` are the layers between rw layer and image, bottom first: of the snapshot that it began
    from. To whoever asks what has changed since the image, they are a part of the rw layer.
    """

    def __init__(
        self,
        *,
        store: Store,
        session: Session,
        plan: Plan,
        added: Sequence[str],
        services: Services,
    ) -> None:
        self._store = store
        self._session = session
        self._plan = plan
        self._added = tuple(added)
        self._services = services
        self.touch = services.touch
        self.note_env = services.note_env

    @property
    def id_gap(self) -> Gap:
        """Why some ids do not exist in the container; empty when all 65536 do."""
        return self._session.ids.gap

    def status(self, container: Container, *, wait_s: float = 0) -> dict[str, Any]:
        """Return the exit status of init, None while it lives, and the figures."""
        return self._call(container, "status", wait_s=wait_s)

    def limit(self, container: Container, key: str, value: float | None) -> None:
        """Change a limit; where it cannot be enforced the session's policy says what happens."""
        if not self._services.may_limit(key, value):
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
        return self._begin(container, self._plan, is_emptied=False)

    def prepare_reset(self, container: Container, to: Snapshot | None) -> Callable[[], Created]:
        """Return what begins anew with the files of a snapshot, or of the image."""
        added = () if to is None else to.added
        if to is not None:
            self._refuse_foreign(container, to)
        return partial(self._reset, container, self._plan_on(to), added)

    def fork(self, container: Container, snapshot: Snapshot, name: str | None) -> Container:
        """Start another container from a snapshot of this one."""
        return self._services.fork(container, snapshot.added, name)

    def snapshot(
        self, container: Container, *, name: str | None, not_kept: tuple[str, ...]
    ) -> Snapshot:
        """Keep the rw layer in the store, as a layer on what lies below it."""
        is_deep = len(self._added) >= ADDED_MAX
        with self._upper(container) as upper_fd:
            packed = self._files.pack(upper_fd, all_added=is_deep)
        digest, size, below = packed.layer.digest, packed.layer.size, self._added
        if is_deep:
            added: tuple[str, ...] = (digest,)
        elif packed.entries:
            added = (*below, digest)
        else:  # nothing has changed: the same files have the same digest
            added = below
            digest = below[-1] if below else digest
            size = self._store.blobs.size(digest)
        return Snapshot(
            name=name or short_digest(digest).removeprefix("sha256:"),
            digest=digest,
            layers=(*container.built.layers, *added),
            added=added,
            size=size,
            image=container.image,
            base=container.built.chain_id,
            not_kept=(*packed.skipped, *not_kept),
        )

    def commit(self, container: Container, tag: str | None) -> Image:
        """Write an image: the container's, and one layer with all that has changed since."""
        built = container.built
        commits.refuse(built, tag, container.name)
        with self._upper(container) as upper_fd:
            packed = self._files.pack(upper_fd, durable=True)
        digest = commits.write(self._store, built, packed.layer if packed.entries else None)
        if tag is not None:
            self._services.tag(digest, tag)
        return Image(digest, title=tag or short_digest(digest))

    def kill(self, container: Container, *, release: bool) -> None:
        """Kill every process; returns when the pid namespace is gone."""
        with contextlib.suppress(ContainerDied):  # the spawner is gone, and so is every container
            self._call(container, "kill", release=release)
        if release:
            self._services.forget(container)

    def release(self, container: Container) -> None:
        """Give up the rw layer; does not wait, as nothing of the container runs any more."""
        try:
            self._session.spawner.tell({"op": "release", "id": container.id})
        except PeerGone:
            pass  # as above
        self._services.forget(container)

    def changes(self, container: Container) -> Changes:
        """Compare with the image's layers."""
        with self._upper(container) as upper_fd:
            found = self._files.changes(upper_fd)
        origin = ChangesOrigin(container, self, self._services.golden_folder)
        return Changes((Change(**each) for each in found), origin=origin)

    def digests(self, container: Container) -> dict[str, str]:
        """Return the SHA-256 of the content of every changed file, by path."""
        with self._upper(container) as upper_fd:
            return self._files.digests(upper_fd)

    def read_base(self, path: str) -> tuple[str, bytes | TooLarge | None]:
        """Return a path with the image's links resolved, and the file there, None if none is."""
        return self._files.read_base(path)

    def read_changed(self, container: Container, path: str) -> bytes | TooLarge | None:
        """Return a file that the container has changed; None where there is no file."""
        with self._upper(container) as upper_fd:
            return self._files.read_changed(upper_fd, path)

    def pack_layer(
        self, container: Container, *, clamp_mtime: int | None
    ) -> tuple[Descriptor, int]:
        """Write all that has changed since the image to the store; tell how many entries it has."""
        with self._upper(container) as upper_fd:
            packed = self._files.pack(upper_fd, clamp_mtime=clamp_mtime, durable=True)
        return packed.layer, packed.entries

    def keep(self, container: Container, *, with_files: bool) -> KeptFiles:
        """Compare, and `with_files` write all that has changed to the store, in one go."""
        with self._upper(container) as upper_fd:
            return self._files.keep(upper_fd, with_files=with_files)

    def _refuse_foreign(self, container: Container, to: Snapshot) -> None:
        """Refuse a snapshot that was taken on another image."""
        if to.base != container.built.chain_id:
            raise ContainerError(
                f"container {container.name} cannot be reset to snapshot {to.name}: it is of the "
                f"image {to.image}, and the container of {container.image}",
                hint="reset a container of that image, or start one from container.commit()",
            )

    def _plan_on(self, snapshot: Snapshot | None) -> Plan:
        if snapshot is None:
            return self._services.plan(())
        try:
            return self._services.plan(snapshot.added)
        except LayerCorrupt as error:
            raise LayerCorrupt(
                f"snapshot {snapshot.name} cannot be used: {error.what}",
                detail=error.detail,
                hint="take it again; what outlives its session is an image: container.commit(tag)",
            ) from error

    def _reset(self, container: Container, plan: Plan, added: tuple[str, ...]) -> Created:
        created = self._begin(container, plan, is_emptied=True)
        self._plan, self._added = plan, added
        if container.limits.disk != container.options.limits.disk:  # of the old file system
            self.limit(container, "disk", container.limits.disk)
        return created

    def _begin(self, container: Container, plan: Plan, *, is_emptied: bool) -> Created:
        with starts.shortages_told():
            trees = self._services.open_trees(plan)
            try:
                return self._session.restart(
                    container.id, plan.key, plan.content, trees, is_emptied=is_emptied
                )
            except PeerGone as error:
                raise _lost(container, error) from error
            finally:
                protocol.close_all(trees)

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

    @property
    def _files(self) -> RwFiles:
        return RwFiles(self._store, self._session, self._plan, added_count=len(self._added))

    @contextlib.contextmanager
    def _upper(self, container: Container) -> Iterator[int]:
        _, fds = self._ask(container, "upper")
        try:
            yield fds[0]
        finally:
            os.close(fds[0])

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


class ChangesOrigin:
    """What changes may still ask of the container that they are of."""

    def __init__(
        self,
        container: Container,
        home: ContainerHome,
        find_golden: Callable[[], GoldenFolder | None],
    ) -> None:
        self._container = container
        self._home = home
        self._find_golden = find_golden

    def golden_folder(self) -> GoldenFolder:
        """Return where the running test keeps its golden trees."""
        if (folder := self._find_golden()) is None:
            raise ContainerError("golden files belong to a test, and none is running")
        return folder

    def digests(self) -> Mapping[str, str]:
        """Return the SHA-256 of the content that changed files have now."""
        container = self._container
        if container.is_closed and not container.retain:
            raise ContainerError(
                f"container {container.name} is closed: what was in its changed files is gone",
                hint="compare with a golden file before the container is closed",
            )
        return self._home.digests(container)


def _lost(container: Container, error: Exception) -> ContainerDied:
    return ContainerDied(
        f"container {container.name} was lost: the process that holds it is gone",
        detail=str(error),
    )
