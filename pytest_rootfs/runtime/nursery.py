"""The nursery: a process that does nothing but have inits, for the spawner.

After a fork, both sides copy each page that they write to, and in this language to read is to
write. So the one that is forked does little, and the spawner, which makes cgroups and mounts at the
same time, is never forked. Inits are cloned with CLONE_PARENT (clone(2)): they are the spawner's
children, who reaps them and with whom they die.
"""

from __future__ import annotations

import errno
import os
import select
import sys

from pytest_rootfs.kernel import forks, prepared, proc_files, signals, syscalls
from pytest_rootfs.kernel.namespaces import write_map_text
from pytest_rootfs.runtime import init, newborn, orders, protocol, steps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any  # the steps of plans are JSON

    from pytest_rootfs.kernel.cgroups_session import Entrances
    from pytest_rootfs.kernel.sockets import Socket
    from pytest_rootfs.runtime.protocol import Message
    from pytest_rootfs.runtime.root_trees import Root

    Kind = tuple[int, str, str, list[Any]]
    """Namespaces, id maps, and steps that need no more."""

KEPT_PLANS = 256
MAPS = ("uid_map", "gid_map")
HELD = ("mnt", "net")
"""Namespaces that take the kernel so long to undo that it shall wait until nobody does."""

ANSWER_S = 10.0
"""A nursery that takes longer has been stopped by somebody: another one is begun."""

KILLED_MS = 100
"""So long a process that was killed may take until it is seen to be dead."""

REHEARSALS = 16
"""The interpreter takes code for frequent, and makes it fast, after eight times."""


class Birth:
    """An init that waits to be told which container to be, as the spawner knows it."""

    __slots__ = (
        "_error", "_has_word", "_is_unknown", "_nursery", "control", "is_spare", "kind",
        "namespace_fds", "pid", "pidfd", "plans",
    )  # fmt: skip

    def __init__(
        self,
        control: Socket,
        nursery: Nursery,
        kind: Kind,
        plans: frozenset[str],
        *,
        is_spare: bool,
    ) -> None:
        self.control = control
        """The far end of its socket."""
        self.kind = kind
        self.is_spare = is_spare
        """Whether it was born before anybody asked."""
        self.plans = plans
        """The keys of the plans that it was born with."""
        self.pid = 0
        """Its process, and 0 before the nursery has told of it."""
        self.pidfd = -1
        self.namespace_fds: list[int] = []
        """What a dying init would take apart, and be waited for, if nobody else held it."""
        self._nursery = nursery
        self._is_unknown = False
        """Whether the nursery's word on it was lost: then it may live, and nobody knows its pid."""
        self._has_word = False
        self._error: tuple[int, str, str | None] | None = None
        """What went wrong: number, text, subject; an exception would hold this birth, for ever."""

    def await_word(self) -> None:
        """Wait for the nursery's word, whatever it is."""
        if self._has_word:
            return
        self._has_word = True
        try:
            message, fds = self._nursery.deliver()
        except OSError as error:
            self._error = error.errno or errno.ECHILD, error.strerror or str(error), error.filename
            self._is_unknown = True
            return
        if "pid" in message:
            self.pid = message["pid"]
            self._nursery.living.add(self.pid)
            self.pidfd, *self.namespace_fds = fds
        if "errno" in message:
            self._error = message["errno"], message["text"], message["subject"]

    def tell(self, request: orders.Request, root: Root) -> None:
        """Tell it which container to be.

        Raises OSError: it could not be cloned, has been killed, or the nursery has.
        """
        self.await_word()
        if self._error is not None:
            number, text, subject = self._error
            raise OSError(number, text, subject)
        is_known = request.key in self.plans
        orders.send(self.control, request, root.overlay_fd, root.trees, is_known=is_known)

    def admit(self, group: Entrances) -> None:
        """Let it enter the control groups of its container."""
        orders.send_entrances(self.control, group)

    @property
    def is_dead(self) -> bool:
        """Whether it has ended by itself."""
        return _is_over(self.pidfd, within_ms=0)

    def kill(self) -> int:
        """Kill it and reap it; returns its status when its whole pid namespace is gone.

        A child that is not reaped keeps its pid; see pid_namespaces(7).
        """
        os.kill(self.pid, signals.SIGKILL)
        self._nursery.living.discard(self.pid)
        return os.waitpid(self.pid, 0)[1]

    def take_namespaces(self) -> list[int]:
        """Return what holds its namespaces, for the caller to close."""
        taken, self.namespace_fds = self.namespace_fds, []
        return taken

    def close(self) -> None:
        """Close what is kept of one that is dead. Idempotent."""
        self.control.close()
        protocol.close_all(self.take_namespaces())
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1

    def abandon(self) -> None:
        """Kill what has been born, if anything has. Idempotent."""
        self.await_word()
        try:
            if self.pid:
                self.kill()
                self.pid = 0
            elif self._is_unknown:
                self._is_unknown = False
                self._nursery.end_unknown()
        finally:
            self.close()


class Nursery:
    """The spawner's side."""

    def __init__(self, *, clones_into_groups: bool) -> None:
        """`clones_into_groups` says that inits clone commands into control groups, on v2."""
        # from a cgroup namespace of its own, an init could not (ENOENT under the mount option
        # nsdelegate, cgroup-v2.rst): each command gets one
        self._namespaces = ~(syscalls.CLONE_NEWCGROUP if clones_into_groups else 0)
        self._pid = 0
        self._control: Socket | None = None
        self._plans: set[str] = set()
        """The keys of the plans that the process keeps."""
        self.living: set[int] = set()
        """The inits that it has told of, until they are reaped."""
        self._last: Birth | None = None

    def bear(self, key: str, plan: Message, *, is_spare: bool = False) -> Birth:
        """Have an init of a plan cloned. `is_spare` says that it has time to prepare itself."""
        if self._last is not None:
            self._last.await_word()  # one at a time: answers come in turn
        namespaces = plan["namespaces"] & self._namespaces
        maps = {name: plan[name] for name in MAPS}
        message = {"key": key, "namespaces": namespaces, "is_spare": is_spare, **maps}
        own, control = protocol.pair()
        with control:
            try:
                self._send(message, plan, control)
            except ConnectionError:  # somebody has killed it
                self.end()
                self._send(message, plan, control)
        self._last = Birth(own, self, kind_of(plan), frozenset(self._plans), is_spare=is_spare)
        return self._last

    def deliver(self) -> tuple[Message, list[int]]:
        """Return the process's word on what `bear` has asked for; raises OSError if it is gone."""
        if self._control is None:
            raise _gone()
        try:
            message, fds = protocol.receive(self._control)
        except (ConnectionError, TimeoutError):
            message, fds = None, []
        if message is None:
            self.end()
            raise _gone()
        return message, fds

    def begin(self) -> Socket:
        """Fork the process, which has the caller's memory, as it is now, for its children."""
        own, far = protocol.pair()
        with far:
            self._pid, pidfd = forks.fork()
            if self._pid == 0:
                _serve(far)
            os.close(pidfd)
        own.settimeout(ANSWER_S)
        self._control = own
        self._plans.clear()
        return own

    def end(self) -> None:
        """End the process; the inits that it had live on. Idempotent."""
        if self._control is not None:
            self._control.close()
            self._control = None
            _kill_and_reap(self._pid)

    def end_unknown(self) -> None:
        """End the init, if there is one, that a nursery had and was killed before it said so."""
        if self._last is not None:
            self._last.await_word()  # else the one under way would be taken for it
        for pid in proc_files.children():
            if pid not in self.living and pid != self._pid:
                _kill_and_reap(pid)

    def _send(self, message: Message, plan: Message, control: Socket) -> None:
        peer = self._control or self.begin()
        key = message["key"]
        if key not in self._plans:
            if len(self._plans) >= KEPT_PLANS:
                self._plans.clear()
            protocol.send(peer, {"key": key, "plan": orders.parts_of(plan)})
            self._plans.add(key)
        protocol.send(peer, message, [control.fileno()])


def kind_of(plan: Message) -> Kind:
    """Return what an init of a plan is born with, and does before it is told more."""
    return plan["namespaces"], plan["uid_map"], plan["gid_map"], plan["early"]


def _kill_and_reap(pid: int) -> None:
    os.kill(pid, signals.SIGKILL)  # a child that is not reaped keeps its pid
    os.waitpid(pid, 0)


def _is_over(pidfd: int, *, within_ms: int) -> bool:
    ended = select.poll()
    ended.register(pidfd, select.POLLIN)
    return bool(ended.poll(within_ms))


def _gone() -> OSError:
    return OSError(errno.ECHILD, "the process that has the inits was killed", "nursery")


def _killed() -> OSError:
    return OSError(errno.ECHILD, "it was killed as soon as it was born", "init")


def _serve(control: Socket) -> None:
    """Have inits until the spawner is gone; never returns."""
    try:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signals.SIGKILL)
        prepared.make([prepared.set_name("rootfs-nursery")])
        os.chdir("/")
        for _ in range(REHEARSALS):
            newborn.rehearse()
        init.close_others(control.fileno())
        plans: dict[str, newborn.Plan] = {}
        while True:
            message, fds = protocol.receive(control)
            if message is None:
                break
            if "plan" in message:
                if len(plans) >= KEPT_PLANS:
                    plans.clear()
                plans[message["key"]] = steps.prepare_all(message["plan"])
            else:
                _bear(plans, message, fds[0], control)
    except BaseException:  # noqa: BLE001  a defect of ours, where PYTEST_ROOTFS_DEBUG shows it
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(0)


def _bear(plans: dict[str, newborn.Plan], message: Message, init_fd: int, control: Socket) -> None:
    """Have an init, map its ids, and tell the spawner of it."""
    answer: Message = {}
    fds: list[int] = []
    own_fds = [init_fd]
    try:
        mapped_r, mapped_w = os.pipe()
        own_fds += mapped_r, mapped_w
        answer["pid"], pidfd = forks.fork(message["namespaces"] | syscalls.CLONE_PARENT)
        if answer["pid"] == 0:
            os.close(control.fileno())
            os.close(mapped_w)
            start = newborn.Start(protocol.end_of(init_fd), mapped_r, plans)
            newborn.main(start, plans[message["key"]]["early"], is_spare=message["is_spare"])
        fds.append(pidfd)
        for name in MAPS:
            write_map_text(f"/proc/{answer['pid']}/{name}", message[name])
        os.write(mapped_w, b"y")
        for name in HELD:  # before it forbids that
            path = f"/proc/{answer['pid']}/ns/{name}"
            fds.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        # of one that was killed, proc has no files, or forbids them
        cause = _killed() if fds and _is_over(fds[0], within_ms=KILLED_MS) else error
        answer |= {"errno": cause.errno, "text": cause.strerror, "subject": cause.filename}
    try:
        protocol.send(control, answer, fds)
    finally:
        protocol.close_all([*fds, *own_fds])
