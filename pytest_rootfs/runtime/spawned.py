"""A container as the spawner keeps it: its first process, its control group, its rw layer."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_rootfs.kernel.cgroups import Group
    from pytest_rootfs.runtime.nursery import Birth
    from pytest_rootfs.runtime.rw_folders import RwLayer


class Container:
    """What the spawner keeps of a container."""

    __slots__ = ("former_layer", "group", "init", "rw_layer", "status")

    def __init__(self, group: Group, rw_layer: RwLayer, init: Birth) -> None:
        self.group = group
        self.rw_layer = rw_layer
        self.former_layer: RwLayer | None = None
        """What a reset goes back from, until the new init is ready."""
        self.init = init
        self.status: int | None = None
        """The exit status of its init as waitpid(2) gives it, once it is dead."""

    @property
    def container_id(self) -> str:
        """What pytest knows it by, and its control groups are called."""
        return self.group.name

    def end(self) -> None:
        """Kill every process; returns when the pid namespace is gone. Idempotent."""
        if self.status is None:
            self.status = self.init.kill()

    def begin(self, init: Birth) -> None:
        """Be alive again, by a new init."""
        self.init.close()
        self.init = init
        self.status = None

    def settle(self, *, is_ready: bool) -> None:
        """Give up the rw layer from before a reset, or after a failed one the new. Idempotent."""
        if self.former_layer is None:
            return
        kept, given_up = self.rw_layer, self.former_layer
        if not is_ready:
            kept, given_up = given_up, kept
        self.rw_layer, self.former_layer = kept, None
        given_up.close()

    def close(self) -> None:
        """Give up what is kept of a dead container, but for its cgroups."""
        self.init.close()
        try:
            self.settle(is_ready=True)
        finally:
            self.rw_layer.close()
