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
from pytest_rootfs.runtime import init, init_layer, protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_rootfs.kernel.cgroups import Group, Parent
    from pytest_rootfs.runtime.protocol import Message

HOST = "host"
"""The name, among the layers of an image, of the host's own root directory."""

KEPT_INIT_LAYERS = 32
KEPT_PLANS = 256


def main(
    control_fd: int, handshake: tuple[int, int], layers: int | str, parent: Parent
) -> None:
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
        layers_fd = layers
        mounts.keep_attached(layers_fd)
    else:
        layers_fd = mounts.clone_tree(layers, recursive=False)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a container takes eight descriptors
    init.prepare()
    _freeze_imports()
    Spawner(socket.socket(fileno=control_fd), layers_fd, parent).serve()
    os._exit(0)


def become_root() -> None:
    """Become uid and gid 0 of the user namespace that this process has just entered."""
    os.setresgid(0, 0, 0)
    try:
        os.setgroups([])
    except PermissionError:
        pass  # denied in a namespace with a single id (user_namespaces(7)): nothing to give up
    os.setresuid(0, 0, 0)


def open_layers(layers_fd: int, names: Sequence[str], host_fd: int) -> list[int]:
    """Open unpacked layers by their diffIDs; `host` is the host's root directory."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    opened: list[int] = []
    try:
        for name in names:
            if name != HOST:
                path = f"{name.partition(':')[2]}/fs"
                opened.append(os.open(path, flags, dir_fd=layers_fd))
            elif host_fd >= 0:
                opened.append(os.open(".", flags, dir_fd=host_fd))
            else:
                opened.append(os.open("/", flags))
    except OSError:
        protocol.close_all(opened)
        raise
    return opened


def _freeze_imports() -> None:
    """From here on nothing may be imported: after a pivot, every path is the image's."""
    sys.path.clear()
    sys.meta_path.clear()
    sys.path_hooks.clear()
    gc.collect()
    gc.freeze()
    gc.disable()


class _RwLayer:
    """A temporary file system with upper dir and work dir, and no place in any namespace."""

    __slots__ = ("mount_fd", "upper_fd")

    def __init__(self, options: Message, root: os.stat_result) -> None:
        self.mount_fd = mounts.filesystem("tmpfs", options)
        try:
            os.mkdir("upper", 0o755, dir_fd=self.mount_fd)
            os.mkdir("work", 0o755, dir_fd=self.mount_fd)
            self.upper_fd = os.open("upper", init_layer.FOLDER_FLAGS, dir_fd=self.mount_fd)
            init_layer.copy_attributes(root, self.upper_fd)
        except OSError:
            os.close(self.mount_fd)
            raise

    def close(self) -> None:
        os.close(self.upper_fd)
        os.close(self.mount_fd)


class _Container:
    """What the spawner keeps of a container."""

    __slots__ = ("group", "pid", "pidfd", "rw_layer", "status")

    def __init__(self, pid: int, pidfd: int, rw_layer: _RwLayer, group: Group) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.rw_layer = rw_layer
        self.group = group
        self.status: int | None = None
        """The exit status of its init as waitpid(2) gives it, once it is dead."""


class Spawner:
    """The containers of one session."""

    def __init__(self, control: socket.socket, layers_fd: int, parent: Parent) -> None:
        self._control = control
        self._layers_fd = layers_fd
        self._host_fd = -1
        self._parent = parent
        self._plans: dict[str, Message] = {}
        self._init_layers: dict[str, tuple[int, int]] = {}
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
                protocol.send(reply, protocol.error_frame(error, message["op"]))
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
        opened: list[int] = []
        rw_layer = None
        try:
            root_fd, rw_layer = self._make_root(plan, fds[1:], opened)
            pid, pidfd = self._clone(plan, fds, reply, root_fd, group)
        except OSError:
            self._remove(group)
            if rw_layer is not None:
                rw_layer.close()
            raise
        finally:
            protocol.close_all(opened)
        self._containers[message["id"]] = _Container(pid, pidfd, rw_layer, group)
        protocol.send(reply, {"pid": pid})

    def _make_root(self, plan: Message, tree_fds: list[int], opened: list[int]) -> tuple[int, _RwLayer]:
        """Return the detached overlay and the rw layer; what only start-up needs is in `opened`."""
        if plan["host_tree"] >= 0 and self._host_fd < 0:
            self._host_fd = os.dup(tree_fds[plan["host_tree"]])
            mounts.keep_attached(self._host_fd)
        layer_fds = open_layers(self._layers_fd, plan["layers"], self._host_fd)
        opened.extend(layer_fds)
        init_layer_fd = self._init_layer(plan, layer_fds)
        rw_layer = _RwLayer(plan["rw"], os.stat(init_layer_fd))
        try:
            work_fd = os.open("work", init_layer.FOLDER_FLAGS, dir_fd=rw_layer.mount_fd)
            opened.append(work_fd)
            lower_fds = [init_layer_fd, *layer_fds]
            root_fd = mounts.overlay(lower_fds, upper_fd=rw_layer.upper_fd, work_fd=work_fd)
            opened.append(root_fd)
        except OSError:
            rw_layer.close()
            raise
        return root_fd, rw_layer

    def _init_layer(self, plan: Message, layer_fds: list[int]) -> int:
        """Return the init layer of this plan: the same for all its containers, read-only."""
        key = plan["init_layer"]["key"]
        if key not in self._init_layers:
            while len(self._init_layers) >= KEPT_INIT_LAYERS:
                protocol.close_all(self._init_layers.pop(next(iter(self._init_layers))))
            self._init_layers[key] = init_layer.build(plan["init_layer"], layer_fds)
        return self._init_layers[key][1]

    def _clone(
        self, plan: Message, fds: list[int], reply: socket.socket, root_fd: int, group: Group
    ) -> tuple[int, int]:
        go_fd = os.eventfd(0)
        try:
            pid, pidfd = syscalls.clone3(plan["namespaces"])
            if pid == 0:
                init.main(init.Start(plan, fds[0], fds[1:], reply, root_fd, go_fd, group))
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
        container = self._find(message)
        self._end(container)
        protocol.send(reply, self._described(container))
        if message["release"]:
            self._drop(message["id"])

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
            if ended.poll(0):
                self._end(container)
        protocol.send(reply, self._described(container))

    def _send_upper(self, message: Message, _fds: list[int], reply: socket.socket) -> None:
        protocol.send(reply, {}, [self._find(message).rw_layer.upper_fd])

    def _limit(self, message: Message, _fds: list[int], reply: socket.socket) -> None:
        self._find(message).group.limit(message["key"], message["value"])
        protocol.send(reply, {})

    def _tree(self, message: Message, _fds: list[int], reply: socket.socket) -> None:
        tree_fd = mounts.host_tree(
            message["path"], readonly=message["readonly"], recursive=message["recursive"]
        )
        protocol.send(reply, {}, [tree_fd])
        os.close(tree_fd)

    def _find(self, message: Message) -> _Container:
        try:
            return self._containers[message["id"]]
        except KeyError:
            raise OSError(errno.ESRCH, "no such container", message["id"]) from None

    def _described(self, container: _Container) -> Message:
        return {"status": container.status, "stats": container.group.read()}

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
