"""Make containers for the spawner: on demand, and the next one ahead.

While a test runs, the container that the next test will probably ask for is made and waits, ready:
the one with the plan that followed last time on the plan just used. Asked for, it is handed over at
once; when something else is asked for, it is killed. There is at most one.
"""

from __future__ import annotations

import os
import select
import signal
import socket

from pytest_rootfs.kernel import forks, namespaces, syscalls
from pytest_rootfs.runtime import init, protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_rootfs.kernel.cgroups import Group, Parent
    from pytest_rootfs.runtime.protocol import Message
    from pytest_rootfs.runtime.root_trees import Root, RootTrees
    from pytest_rootfs.runtime.rw_folders import RwLayer

KEPT_SUCCESSIONS = 256
READY_S = 10.0


class Container:
    """What the spawner keeps of a container."""

    __slots__ = ("container_id", "control", "group", "pid", "pidfd", "rw_layer", "status")

    def __init__(
        self,
        container_id: str,
        control: socket.socket,
        group: Group,
        rw_layer: RwLayer,
        process: tuple[int, int],
    ) -> None:
        self.container_id = container_id
        self.control = control
        """The far end of init's socket, until pytest has it."""
        self.group = group
        self.rw_layer = rw_layer
        self.pid, self.pidfd = process
        self.status: int | None = None
        """The exit status of its init as waitpid(2) gives it, once it is dead."""

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

    def begin(self, control: socket.socket, process: tuple[int, int]) -> None:
        """Be alive again, by a new init."""
        os.close(self.pidfd)
        self.control = control
        self.pid, self.pidfd = process
        self.status = None

    def close(self) -> None:
        """Give up what is kept of a dead container, but for its cgroups."""
        self.control.close()
        os.close(self.pidfd)
        self.rw_layer.close()


class Births:
    """Makes the containers of one session."""

    def __init__(self, trees: RootTrees, parent: Parent) -> None:
        self._trees = trees
        self._parent = parent
        self._last_key = ""
        self._successors: dict[str, str] = {}
        """Which plan was asked for after which: what will be asked for next."""
        self._ahead: tuple[str, Container, socket.socket] | None = None
        self._busy_groups: list[Group] = []

    def create(
        self, key: str, plan: Message, tree_fds: Sequence[int], reply: socket.socket
    ) -> tuple[Container, bool]:
        """Return a container of a plan, and whether it is ready; else its init tells `reply`."""
        container = self._take_ahead(key)
        is_ready = container is not None
        if container is None:
            container = self._make(plan, tree_fds, reply, is_ahead=False)
        if len(self._successors) >= KEPT_SUCCESSIONS:
            self._successors.clear()
        # mounts of people come as descriptors with the call: not to be had ahead; and what stands
        # on a snapshot is another one each time
        is_foreseeable = len(tree_fds) == (plan["host_tree"] >= 0) and not plan["is_singular"]
        if is_foreseeable:
            self._successors[self._last_key] = key
        else:
            self._successors.pop(self._last_key, None)
        self._last_key = key if is_foreseeable else ""
        return container, is_ready

    def restart(
        self,
        container: Container,
        plan: Message,
        tree_fds: Sequence[int],
        reply: socket.socket,
        *,
        is_emptied: bool,
    ) -> None:
        """Kill every process and begin anew, with the same cgroups and the same or a new rw layer.

        Init tells `reply` when it is ready. After an error the container is dead, and keeps both.
        """
        container.end()
        container.group.freeze(frozen=False)
        kept = container.rw_layer
        root = self._make_root(plan, tree_fds, None if is_emptied else kept)
        try:
            born = _bear(plan, tree_fds, reply, root, container.group, is_ahead=False)
        except OSError:
            if root.rw_layer is not kept:
                root.rw_layer.close()
            raise
        container.begin(*born)
        if root.rw_layer is not kept:
            container.rw_layer = root.rw_layer
            kept.close()

    @property
    def limits_disk(self) -> bool:
        """Whether the size of a rw layer can be limited."""
        return self._trees.limits_disk

    def next_key(self) -> str | None:
        """Return the plan of the container to be made ahead, None if there is none to be made."""
        return None if self._ahead is not None else self._successors.get(self._last_key)

    def make_ahead(self, key: str, plan: Message) -> None:
        """Make the next container; what fails now is reported when somebody asks for it."""
        own, far = protocol.pair()
        with far:
            try:
                container = self._make(plan, (), far, is_ahead=True)
            except OSError:
                own.close()
                self._successors.pop(self._last_key, None)
                return
        self._ahead = key, container, own

    def discard_ahead(self) -> None:
        """Kill the container that nobody has asked for."""
        if self._ahead is not None:
            (_, container, conversation), self._ahead = self._ahead, None
            conversation.close()
            self.dispose(container)

    def dispose(self, container: Container) -> None:
        """Kill a container and give up all that is kept of it."""
        container.end()
        container.close()
        self._remove(container.group)

    def _take_ahead(self, key: str) -> Container | None:
        if self._ahead is None or self._ahead[0] != key:
            self.discard_ahead()
            return None
        (_, container, conversation), self._ahead = self._ahead, None
        with conversation:
            conversation.settimeout(READY_S)
            try:
                message, fds = protocol.receive(conversation)
                protocol.close_all(fds)
            except OSError:
                message = None
        if message is None or "ready" not in message or container.is_dead:
            self.dispose(container)
            return None
        return container

    def _make(
        self, plan: Message, tree_fds: Sequence[int], reply: socket.socket, *, is_ahead: bool
    ) -> Container:
        container_id = os.urandom(6).hex()
        root = None
        group = self._parent.create(container_id, plan["limits"])
        try:
            root = self._make_root(plan, tree_fds)
            control, process = _bear(plan, tree_fds, reply, root, group, is_ahead=is_ahead)
        except OSError:
            if root is not None:
                root.rw_layer.close()
            self._remove(group)
            raise
        return Container(container_id, control, group, root.rw_layer, process)

    def _make_root(
        self, plan: Message, tree_fds: Sequence[int], rw_layer: RwLayer | None = None
    ) -> Root:
        """Return the root file system for a start, on a new rw layer unless one is given."""
        if plan["host_tree"] >= 0 and tree_fds:
            self._trees.add_host(tree_fds[plan["host_tree"]])
        return self._trees.make(plan, rw_layer)

    def _remove(self, group: Group) -> None:
        self._busy_groups = [group for group in [*self._busy_groups, group] if not group.remove()]


def _bear(
    plan: Message,
    tree_fds: Sequence[int],
    reply: socket.socket,
    root: Root,
    group: Group,
    *,
    is_ahead: bool,
) -> tuple[socket.socket, tuple[int, int]]:
    """Start an init; return the far end of its socket, its pid and its pidfd."""
    own, far = protocol.pair()
    # a pipe, not an eventfd: it ends with the spawner, and so does an init that still waits
    go_r, go_w = os.pipe()
    try:
        start = init.Start(plan, far, reply, tree_fds, root, group, go_r, is_ahead=is_ahead)
        return own, _clone(start, go_w)
    except OSError:
        own.close()
        raise
    finally:
        far.close()
        os.close(go_r)
        os.close(go_w)
        root.close_start()


def _clone(start: init.Start, go_w: int) -> tuple[int, int]:
    """Fork an init into its namespaces; return its pid and pidfd."""
    plan = start.plan
    flags = plan["namespaces"]
    if start.group.into_fd is not None:
        # from a cgroup namespace of its own, init could not clone a command into the group
        # (ENOENT under the mount option nsdelegate, cgroup-v2.rst): each command gets one
        flags &= ~syscalls.CLONE_NEWCGROUP
    pid, pidfd = forks.fork(flags)
    if pid == 0:
        init.main(start)
    try:
        for name in ("uid_map", "gid_map"):
            namespaces.write_map_text(f"/proc/{pid}/{name}", plan[name])
        os.write(go_w, b"g")
    except OSError:
        kill_and_reap(pid)
        os.close(pidfd)
        raise
    return pid, pidfd


def kill_and_reap(pid: int) -> int:
    """Kill an init; returns when its whole pid namespace is gone (pid_namespaces(7))."""
    os.kill(pid, signal.SIGKILL)  # a child that is not reaped keeps its pid
    return os.waitpid(pid, 0)[1]
