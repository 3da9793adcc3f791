"""A container as the spawner keeps it: its first process, its control group, its rw layer."""

from __future__ import annotations

import os
import select

from pytest_rootfs.runtime.nursery import kill_and_reap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_rootfs.kernel.cgroups import Group
    from pytest_rootfs.runtime.nursery import Birth
    from pytest_rootfs.runtime.rw_folders import RwLayer


class Container:
    """What the spawner keeps of a container."""

    __slots__ = (
        "control", "former_layer", "group", "namespace_fds", "pid", "pidfd", "rw_layer", "status",
    )  # fmt: skip

    def __init__(self, group: Group, rw_layer: RwLayer, birth: Birth) -> None:
        self.group = group
        self.rw_layer = rw_layer
        self.former_layer: RwLayer | None = None
        """What a reset goes back from, until the new init is ready."""
        self.namespace_fds: list[int] = []
        """What a dying init would take apart, and be waited for, if nobody else held it."""
        self._take(birth)
        self.status: int | None = None
        """The exit status of its init as waitpid(2) gives it, once it is dead."""

    @property
    def container_id(self) -> str:
        """What pytest knows it by, and its control groups are called."""
        return self.group.name

    @property
    def is_dead(self) -> bool:
        """Tell whether init has ended by itself."""
        ended = select.poll()
        ended.register(self.pidfd, select.POLLIN)
        return bool(ended.poll(0))

    def end(self) -> None:
        """Kill every process; returns when the pid namespace is gone. Idempotent."""
        if self.status is None:
            self.status = kill_and_reap(self.pid)

    def begin(self, birth: Birth) -> None:
        """Be alive again, by a new init."""
        os.close(self.pidfd)
        self._take(birth)
        self.status = None

    def let_go(self) -> None:
        """Let the kernel undo the mounts and the network of a dead container. Idempotent."""
        while self.namespace_fds:
            os.close(self.namespace_fds.pop())

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
        self.settle(is_ready=True)
        self.let_go()
        self.control.close()
        os.close(self.pidfd)
        self.rw_layer.close()

    def _take(self, birth: Birth) -> None:
        self.control = birth.control
        """The far end of init's socket, until pytest has it."""
        self.pid, self.pidfd = birth.pid, birth.pidfd
        self.namespace_fds = birth.namespace_fds
