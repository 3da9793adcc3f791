"""The spawner: root of the session's user namespace, parent of every container.

One per pytest process, single-threaded and small, because each container starts as a fork of it.
It makes what must exist before a container's first process (cgroups, the rw layer, the overlay),
clones that process, and keeps what must outlive it: the descriptor of the rw layer, which can be
read after the container is dead. Imports `os sys socket` and `kernel` only.
"""

from __future__ import annotations

import errno
import gc
import os
import resource
import select
import signal
import socket
import sys

from pytest_rootfs.kernel import mounts, namespaces, syscalls
from pytest_rootfs.runtime import init, protocol
from pytest_rootfs.runtime.root_trees import Root, RootTrees, RwLayer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_rootfs.kernel.cgroups import Group, Parent
    from pytest_rootfs.runtime.protocol import Message

KEPT_PLANS = 256


def main(control_fd: int, handshake: tuple[int, int], layers: int | str, parent: Parent) -> None:
    """Enter the user namespace, with the warden writing its maps, and serve; never returns."""
    unshared_w, mapped_r = handshake
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        parent.enter()
        syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
    except OSError as error:
        os.write(unshared_w, f"{error.errno} {error.strerror}".encode())
        os._exit(1)
    os.write(unshared_w, b"ok")
    os.close(unshared_w)
    if not os.read(mapped_r, 1):
        os._exit(1)
    os.close(mapped_r)
    become_root()
    # the change of ids cleared these two; without the first, /proc/<init>/uid_map of the next
    # container would belong to the host's root (proc(5), PR_SET_DUMPABLE in prctl(2))
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    if isinstance(layers, int):
        trees = RootTrees(layers, "/tmp")  # host trees come from the warden: no path is needed here
    else:
        trees = RootTrees(mounts.clone_tree(layers, recursive=False), layers)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a container takes eight descriptors
    init.prepare()
    _freeze_imports()
    Spawner(socket.socket(fileno=control_fd), trees, parent).serve()
    os._exit(0)


def become_root() -> None:
    """Become uid and gid 0 of the user namespace that this process has just entered."""
    os.setresgid(0, 0, 0)
    try:
        os.setgroups([])
    except PermissionError:
        pass  # denied in a namespace with a single id (user_namespaces(7)): nothing to give up
    os.setresuid(0, 0, 0)


def _freeze_imports() -> None:
    """From here on nothing may be imported: after a pivot, every path is the image's."""
    sys.path.clear()
    sys.meta_path.clear()
    sys.path_hooks.clear()
    gc.collect()
    gc.freeze()
    gc.disable()


class _Container:
    """What the spawner keeps of a container."""

    __slots__ = ("group", "pid", "pidfd", "rw_layer", "status")

    def __init__(self, pid: int, pidfd: int, rw_layer: RwLayer, group: Group) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.rw_layer = rw_layer
        self.group = group
        self.status: int | None = None
        """The exit status of its init as waitpid(2) gives it, once it is dead."""


class Spawner:
    """The containers of one session."""

    def __init__(self, control: socket.socket, trees: RootTrees, parent: Parent) -> None:
        self._control = control
        self._trees = trees
        self._parent = parent
        self._plans: dict[str, Message] = {}
        self._containers: dict[str, _Container] = {}
        self._busy_groups: list[Group] = []

    def serve(self) -> None:
        """Answer calls until pytest is gone; then kill every container."""
        calls = {
            "plan": self._keep_plan,
            "create": self._create,
            "kill": self._kill,
            "release": self._release,
            "status": self._status,
            "upper": self._send_upper,
            "limit": self._limit,
            "tree": self._tree,
        }
        while True:
            message, fds = protocol.receive(self._control)
            if message is None:
                break
            reply = socket.socket(fileno=fds[0])
            try:
                calls[message["op"]](message, fds[1:], reply)
            except OSError as error:
                protocol.send_error(reply, error, message["op"])
            finally:
                reply.close()
                protocol.close_all(fds[1:])
        for container in self._containers.values():
            self._end(container)

    def _keep_plan(self, message: Message, _fds: list[int], reply: socket.socket) -> None:
        if len(self._plans) >= KEPT_PLANS:
            self._plans.clear()
        self._plans[message["key"]] = message["plan"]
        protocol.send(reply, {})

    def _create(self, message: Message, fds: list[int], reply: socket.socket) -> None:
        """Make a container; its init reports on the same conversation when it stands."""
        plan = self._plans.get(message["plan"])
        if plan is None:
            protocol.send(reply, {"unknown_plan": True})
            return
        group = self._parent.create(message["id"], plan["limits"])
        root = None
        try:
            if plan["host_tree"] >= 0:
                self._trees.add_host(fds[1 + plan["host_tree"]])
            root = self._trees.make(plan)
            pid, pidfd = self._clone(plan, fds, reply, root, group)
        except OSError:
            self._remove(group)
            if root is not None:
                root.rw_layer.close()
            raise
        finally:
            if root is not None:
                root.close_start()
        self._containers[message["id"]] = _Container(pid, pidfd, root.rw_layer, group)
        protocol.send(reply, {"pid": pid})

    def _clone(
        self, plan: Message, fds: list[int], reply: socket.socket, root: Root, group: Group
    ) -> tuple[int, int]:
        go_fd = os.eventfd(0)
        try:
            flags = plan["namespaces"]
            if group.into_fd is not None:
                # from a cgroup namespace of its own, init could not clone a command into the group
                # (ENOENT under the mount option nsdelegate, cgroup-v2.rst): each command gets one
                flags &= ~syscalls.CLONE_NEWCGROUP
            pid, pidfd = syscalls.clone3(flags)
            if pid == 0:
                init.main(init.Start(plan, fds[0], fds[1:], reply, root, go_fd, group))
            try:
                for name in ("uid_map", "gid_map"):
                    namespaces.write_map(f"/proc/{pid}/{name}", plan[name])
                os.eventfd_write(go_fd, 1)
            except OSError:
                _kill_and_reap(pid, pidfd)
                os.close(pidfd)
                raise
        finally:
            os.close(go_fd)
        return pid, pidfd

    def _kill(self, message: Message, _fds: list[int], reply: socket.socket) -> None:
        """Kill every process of a container; its rw layer stays until it is released."""
        self._end(self._find(message))
        if message["release"]:
            self._drop(message["id"])
        protocol.send(reply, {})

    def _release(self, message: Message, _fds: list[int], reply: socket.socket) -> None:
        """Give up the rw layer of a container, which dies if it still lives."""
        if message["id"] in self._containers:
            self._end(self._containers[message["id"]])
            self._drop(message["id"])
        protocol.send(reply, {})

    def _status(self, message: Message, _fds: list[int], reply: socket.socket) -> None:
        container = self._find(message)
        if container.status is None:
            ended = select.poll()
            ended.register(container.pidfd, select.POLLIN)
            if ended.poll(message["wait_s"] * 1000):
                self._end(container)
        protocol.send(reply, {"status": container.status, "stats": container.group.read()})

    def _send_upper(self, message: Message, _fds: list[int], reply: socket.socket) -> None:
        protocol.send(reply, {}, [self._find(message).rw_layer.upper_fd])

    def _limit(self, message: Message, _fds: list[int], reply: socket.socket) -> None:
        self._find(message).group.limit(message["key"], message["value"])
        protocol.send(reply, {})

    def _tree(self, message: Message, _fds: list[int], reply: socket.socket) -> None:
        tree_fd = mounts.host_tree(
            message["path"], readonly=message["readonly"], recursive=message["recursive"]
        )
        try:
            protocol.send(reply, {}, [tree_fd])
        finally:
            os.close(tree_fd)

    def _find(self, message: Message) -> _Container:
        try:
            return self._containers[message["id"]]
        except KeyError:
            raise OSError(errno.ESRCH, "no such container", message["id"]) from None

    def _end(self, container: _Container) -> None:
        if container.status is None:
            container.status = _kill_and_reap(container.pid, container.pidfd)

    def _drop(self, container_id: str) -> None:
        container = self._containers.pop(container_id)
        os.close(container.pidfd)
        container.rw_layer.close()
        self._remove(container.group)

    def _remove(self, group: Group) -> None:
        self._busy_groups = [group for group in [*self._busy_groups, group] if not group.remove()]


def _kill_and_reap(pid: int, pidfd: int) -> int:
    """Kill an init; returns when its whole pid namespace is gone (pid_namespaces(7))."""
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]
