"""The spawner: root of the session's user namespace, parent of every container's first process.

One per pytest process, single-threaded. It has the nursery clone that process, makes what it needs
(the rw layer, the overlay, cgroups), and keeps what must outlive it: the descriptor of the rw
layer, which can be read after the container is dead. Small, as the nursery starts as a fork of it:
imports small modules of the standard library and `kernel` only.
"""

from __future__ import annotations

import errno
import gc
import os
import resource
import select
import sys

from pytest_rootfs.kernel import mounts, namespaces, signals, syscalls
from pytest_rootfs.runtime import init, protocol
from pytest_rootfs.runtime.births import Births, MountRefused
from pytest_rootfs.runtime.nursery import Nursery
from pytest_rootfs.runtime.orders import Request
from pytest_rootfs.runtime.root_trees import RootTrees
from pytest_rootfs.runtime.spawned import Container

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_rootfs.kernel.cgroups import Parent
    from pytest_rootfs.kernel.sockets import Socket
    from pytest_rootfs.runtime.nursery import Birth
    from pytest_rootfs.runtime.protocol import Message

KEPT_PLANS = 256
BALLAST = 4
QUIET_MS = 1
"""After so long without a call nobody waits for an init that starts, or for one that ends."""


def main(
    control_fd: int,
    handshake: tuple[int, int],
    layers: int | str,
    parent: Parent,
    *,
    makes_ahead: bool,
) -> None:
    """Enter the user namespace, with the warden writing its maps, and serve; never returns."""
    unshared_w, mapped_r = handshake
    syscalls.set_title("pytest-rootfs")  # a container shall not see paths of the host
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signals.SIGKILL)
    step = "enter"
    try:
        parent.enter()
        step = "unshare"
        syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
    except OSError as error:
        os.write(unshared_w, f"{error.errno} {step} {error.strerror}".encode())
        os._exit(1)
    os.write(unshared_w, b"ok")
    os.close(unshared_w)
    if not os.read(mapped_r, 1):
        os._exit(1)
    os.close(mapped_r)
    control = protocol.end_of(control_fd)
    try:
        trees = _prepare(layers)
        _freeze_imports()
        nursery = Nursery(clones_into_groups=parent.clones_into_groups)
        nursery.begin()
    except OSError as error:
        _refuse(control, error)
    Spawner(control, Births(trees, parent, nursery), makes_ahead=makes_ahead).serve()
    os._exit(0)


def _prepare(layers: int | str) -> RootTrees:
    """Do, as root of the user namespace, what all containers need."""
    become_root()
    # the change of ids cleared these two; without the first, /proc/<init>/uid_map of the next
    # container would belong to the host's root (proc(5), PR_SET_DUMPABLE in prctl(2))
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signals.SIGKILL)
    # what the host unmounts goes here, too, else it would stay in use until the session ends
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_SLAVE)
    if isinstance(layers, int):
        trees = RootTrees(layers, mounts.find_place())  # host trees come from the warden
    else:
        trees = RootTrees(mounts.clone_tree(layers, recursive=False), layers)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # each container takes nine
    # no process of a container shall write a core file into it
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    init.prepare()
    return trees


def _refuse(control: Socket, error: OSError) -> None:
    """Answer the first call with what stands in the way of all; never returns."""
    message, fds = protocol.receive(control)
    if message is not None:
        with protocol.end_of(fds[0]) as reply:
            protocol.send_error(reply, error, "prepare")
    os._exit(1)


def become_root() -> None:
    """Become uid and gid 0 of the user namespace that this process has just entered."""
    try:
        os.setresgid(0, 0, 0)
        try:
            os.setgroups([])
        except PermissionError:
            pass  # denied in a namespace with a single id (user_namespaces(7)): none to give up
        os.setresuid(0, 0, 0)
    except OSError as error:
        raise OSError(error.errno, error.strerror, "setresgid 0 or setresuid 0") from None


def _freeze_imports() -> None:
    """From here on nothing may be imported: after a pivot, every path is the image's."""
    sys.path.clear()
    sys.meta_path.clear()
    sys.path_hooks.clear()
    gc.collect()
    gc.freeze()
    gc.disable()


class Spawner:
    """The containers of one session."""

    def __init__(self, control: Socket, births: Births, *, makes_ahead: bool) -> None:
        self._control = control
        self._births = births
        # on a single core, what is done ahead is done in a test's time
        self._has_free_core = len(os.sched_getaffinity(0)) > 1
        self._makes_ahead = makes_ahead and self._has_free_core
        self._plans: dict[str, Message] = {}
        self._containers: dict[str, Container] = {}
        self._watched: dict[int, tuple[Container, Birth]] = {}
        """Living containers by the pidfd of their process 1."""
        self._ballast: list[int] = []
        """Descriptors to do without, so that a call comes through when all others are in use."""
        self._watcher = select.poll()
        self._watcher.register(control, select.POLLIN)

    def serve(self) -> None:
        """Answer calls until pytest is gone; then kill every container."""
        calls = {
            "features": self._tell_features,
            "plan": self._keep_plan,
            "create": self._create,
            "restart": self._restart,
            "kill": self._kill,
            "status": self._status,
            "upper": self._send_upper,
            "limit": self._limit,
            "freeze": self._freeze,
            "tree": self._tree,
        }
        told = {"settle": self._settle, "release": self._release}
        while True:
            message, fds = self._receive_call()
            if message is None:
                break
            if not fds:
                told[message["op"]](message)
                continue
            reply = protocol.end_of(fds[0])
            try:
                calls[message["op"]](message, fds[1:], reply)
            except OSError as error:
                protocol.send_error(reply, error, message["op"])
            finally:
                reply.close()
                protocol.close_all(fds[1:])
        self._births.end()
        for container in self._containers.values():
            container.end()

    def _receive_call(self) -> tuple[Message | None, list[int]]:
        """Return the next call that comes through, none when pytest is gone or wants no more."""
        while True:
            self._use_time()
            if not self._await_call():
                continue
            try:
                message, fds = protocol.receive(self._control)
                return (message, fds) if message != protocol.END else (None, fds)
            except ConnectionError:
                return None, []
            except OSError:
                # it could not be taken, perhaps for want of descriptors: who made it sees its
                # conversation end, and asks what is the matter
                self._spend_ballast()

    def _take_ballast(self) -> None:
        try:
            while len(self._ballast) < BALLAST:
                self._ballast.append(os.dup(0))
        except OSError:
            pass  # those that live need them all

    def _spend_ballast(self) -> None:
        protocol.close_all(self._ballast)
        self._ballast.clear()

    def _await_call(self) -> bool:
        """Wait for a call; tell whether it has come, or a container's process 1 has ended."""
        wait_ms = None
        while ready := [fd for fd, _ in self._watcher.poll(wait_ms)]:
            for fd in ready:
                if fd in self._watched:
                    self._let_go(fd)
            if self._control.fileno() in ready:
                return True
            wait_ms = QUIET_MS  # it is often pytest that has ended it, and a call follows
        return False

    def _let_go(self, pidfd: int) -> None:
        container, birth = self._watched.pop(pidfd)
        self._watcher.unregister(pidfd)
        if container.init is not birth:
            return
        container.end()
        self._births.remains.let_go_later(container)

    def _watch(self, container: Container) -> None:
        pidfd = container.init.pidfd
        self._watched[pidfd] = container, container.init
        self._watcher.register(pidfd, select.POLLIN)

    def _unwatch(self, container: Container) -> None:
        if self._watched.pop(container.init.pidfd, None) is not None:
            self._watcher.unregister(container.init.pidfd)

    def _use_time(self) -> None:
        """Do what nobody waits for, until something happens or nothing is left."""
        os.sched_yield()  # the last answer may have woken pytest on this very processor
        while not self._watcher.poll(0) and self._make_ahead():
            pass
        if self._watcher.poll(QUIET_MS):
            return
        if self._has_free_core:
            self._births.make_spare()
        while not self._watcher.poll(0) and self._births.remains.do_one():
            pass

    def _make_ahead(self) -> bool:
        """Make the next container ahead; tell whether one was to be made."""
        if not self._makes_ahead:
            return False
        key = self._births.next_key()
        return key in self._plans and self._births.make_ahead(key, self._plans[key])

    def _tell_features(self, _message: Message, _fds: list[int], reply: Socket) -> None:
        protocol.send(reply, {"disk_limit": self._births.limits_disk})

    def _keep_plan(self, message: Message, _fds: list[int], reply: Socket) -> None:
        if len(self._plans) >= KEPT_PLANS:
            self._plans.clear()
        plan = message["plan"]
        for name in ("uid_map", "gid_map"):
            plan[name] = namespaces.map_text(plan[name])
        self._plans[message["key"]] = plan
        protocol.send(reply, {})

    def _create(self, message: Message, fds: list[int], reply: Socket) -> None:
        """Make a container; unless it is ready, its init says so on the same conversation."""
        self._take_ballast()  # before the container, which may be the last that there is room for
        key = message["plan"]
        plan = self._plans.get(key)
        if plan is None:
            protocol.send(reply, {"unknown_plan": True})
            return
        has_others = any(other.status is None for other in self._containers.values())
        try:
            request = Request(key, plan, reply, fds)
            container, is_ready = self._births.create(request, is_beside_others=has_others)
        except MountRefused as refused:
            protocol.send(reply, refused.answer)
            return
        try:
            _hand_over(container, reply, {"ready": True} if is_ready else {})
        except OSError:  # whoever asked has gone
            self._births.remains.dispose_later(container)
            raise
        self._containers[container.container_id] = container
        self._watch(container)

    def _restart(self, message: Message, fds: list[int], reply: Socket) -> None:
        """Kill every process of a container and begin anew; its init says when it is ready."""
        container = self._find(message)
        plan = self._plans.get(message["plan"])
        if plan is None:
            protocol.send(reply, {"unknown_plan": True})
            return
        self._unwatch(container)
        self._spend_ballast()
        request = Request(message["plan"], plan, reply, fds)
        self._births.restart(container, request, is_emptied=message["is_emptied"])
        self._watch(container)
        _hand_over(container, reply, {})

    def _settle(self, message: Message) -> None:
        """End what a restart has begun: its init is ready; or it has failed, and is killed."""
        container = self._containers.get(message["id"])
        if container is None:
            return
        if not message["is_ready"]:
            container.end()
        try:
            container.settle(is_ready=message["is_ready"])
        except OSError:
            pass  # what was given up stays until the session ends; nobody waits

    def _kill(self, message: Message, _fds: list[int], reply: Socket) -> None:
        """Kill every process of a container; its rw layer stays until it is released.

        Whoever asked goes on when all are dead. What they leave, folders of cgroups and memory, is
        removed when nobody waits.
        """
        container = self._find(message)
        self._unwatch(container)
        container.end()
        try:
            protocol.send(reply, {})
        finally:  # whoever asked may have been interrupted
            if message["release"]:
                self._births.remains.dispose_later(self._containers.pop(message["id"]))
            else:
                self._births.remains.let_go_later(container)

    def _release(self, message: Message) -> None:
        """Give up the rw layer of a container, which dies if it still lives."""
        container = self._containers.pop(message["id"], None)
        if container is not None:
            self._unwatch(container)
            container.end()
            self._births.remains.dispose_later(container)

    def _status(self, message: Message, _fds: list[int], reply: Socket) -> None:
        container = self._find(message)
        if container.status is None:
            ended = select.poll()
            ended.register(container.init.pidfd, select.POLLIN)
            if ended.poll(message["wait_s"] * 1000):
                container.end()
        free = os.fstatvfs(container.rw_layer.upper_fd)
        protocol.send(
            reply,
            {
                "status": container.status,
                "stats": container.group.read(),
                "disk_free_bytes": free.f_bavail * free.f_frsize,
                "disk_used_bytes": (free.f_blocks - free.f_bfree) * free.f_frsize,
                "disk_free_files": free.f_favail,
            },
        )

    def _send_upper(self, message: Message, _fds: list[int], reply: Socket) -> None:
        protocol.send(reply, {}, [self._find(message).rw_layer.upper_fd])

    def _limit(self, message: Message, _fds: list[int], reply: Socket) -> None:
        container = self._find(message)
        if message["key"] == "disk":
            container.rw_layer.resize(message["value"])
        else:
            container.group.limit(message["key"], message["value"])
        protocol.send(reply, {})

    def _freeze(self, message: Message, _fds: list[int], reply: Socket) -> None:
        self._find(message).group.freeze(frozen=message["frozen"])
        protocol.send(reply, {})

    def _tree(self, message: Message, _fds: list[int], reply: Socket) -> None:
        tree_fd = mounts.host_tree(
            message["path"], readonly=message["readonly"], recursive=message["recursive"]
        )
        try:
            protocol.send(reply, {}, [tree_fd])
        finally:
            os.close(tree_fd)

    def _find(self, message: Message) -> Container:
        try:
            return self._containers[message["id"]]
        except KeyError:
            raise OSError(errno.ESRCH, "no such container", message["id"]) from None


def _hand_over(container: Container, reply: Socket, more: Message) -> None:
    """Give pytest the socket and the pidfd of a container's init."""
    answer = {"id": container.container_id, "pid": container.init.pid, **more}
    protocol.send(reply, answer, [container.init.control.fileno(), container.init.pidfd])
    container.init.control.close()
