"""The seam between a container and the engine that has started it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from pytest_rootfs.changeset import Changes
from pytest_rootfs.runtime.gaps import Gap
from pytest_rootfs.textdiff import TooLarge

if TYPE_CHECKING:
    from pytest_rootfs.runtime.container import Container
    from pytest_rootfs.runtime.records import KeptFiles
    from pytest_rootfs.runtime.session import Created
    from pytest_rootfs.snapshots import Snapshot


class Home(Protocol):
    """What a container needs of the engine that started it."""

    @property
    def id_gap(self) -> Gap:
        """Why some ids do not exist in the container; empty when all 65536 do."""

    def touch(self, container: Container) -> None:
        """Note that the container is being used."""

    def note_env(self, env: Mapping[str, str]) -> None:
        """Note which environment a command is given: it may hold secrets."""

    def status(
        self, container: Container, *, wait_s: float = 0
    ) -> dict[str, Any]:  # Any: figures of many types, as JSON has them
        """Return `status` (of waitpid(2), None while alive) and `stats`.

        Waits up to `wait_s` seconds for the end of one that is dying.
        """

    def limit(self, container: Container, key: str, value: float | None) -> None:
        """Change a limit, None lifts it; raises LimitUnavailable, ContainerError."""

    def freeze(self, container: Container, *, frozen: bool) -> None:
        """Let the cgroup of the commands stand still, or go on, where it is of version 2."""

    def restart(self, container: Container) -> Created:
        """Kill every process and begin anew on the same rw layer.

        Raises ContainerError, and then the container is dead.
        """

    def snapshot(
        self, container: Container, *, name: str | None, not_kept: tuple[str, ...]
    ) -> Snapshot:
        """Keep the rw layer in the store, as a layer on what lies below it."""

    def prepare_reset(self, container: Container, to: Snapshot | None) -> Callable[[], Created]:
        """Return what kills every process and begins anew with the files of a snapshot.

        Raises ContainerError, before anything has changed, for one that does not fit.
        """

    def fork(self, container: Container, snapshot: Snapshot, name: str | None) -> Container:
        """Start another container from a snapshot of this one, with the same options."""

    def commit(self, container: Container, tag: str | None) -> Any:  # Any: an Image, not known here
        """Make an image of the container's files; raises ImageError for a tag that is none."""

    def kill(self, container: Container, *, release: bool) -> None:
        """Kill every process; with `release` give up the rw layer too.

        Returns when nothing is left of the processes; raises TimeoutError when they do not die.
        """

    def release(self, container: Container) -> None:
        """Give up the rw layer of a dead container; does not wait for that."""

    def changes(self, container: Container) -> Changes:
        """Compare the rw layer with the image."""

    def read_base(self, path: str) -> tuple[str, bytes | TooLarge | None]:
        """Return a path with the image's links resolved, and the file there, None if none is."""

    def read_changed(self, container: Container, path: str) -> bytes | TooLarge | None:
        """Return a file that the container has changed; None where there is no file."""

    def pack_layer(
        self, container: Container, *, clamp_mtime: int | None
    ) -> tuple[Any, int]:  # Any: a descriptor of the store, not known here
        """Pack the rw layer into the store; tell how many entries it has."""

    def keep(self, container: Container, *, with_files: bool) -> KeptFiles:
        """Compare the rw layer with the image, and `with_files` pack it, in one go."""
