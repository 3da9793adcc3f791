"""The nursery: a process that does nothing but have inits, for the spawner.

After a fork, both sides copy each page that they write to, and in this language to read is to
write. So the one that is forked does little, and the spawner, which makes cgroups and mounts at the
same time, is never forked. Inits are cloned with CLONE_PARENT (clone(2)): they are the spawner's
children, who reaps them and with whom they die.
"""

from __future__ import annotations

import errno
import os
import signal

from pytest_rootfs.kernel import forks, prepared, syscalls
from pytest_rootfs.runtime import commands, init, protocol, steps

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from pytest_rootfs.runtime.protocol import Message

KEPT_PLANS = 256
REHEARSALS = 16
"""The interpreter takes code for frequent, and makes it fast, after eight times."""


class NurseryGone(OSError):
    """Somebody has killed the nursery; another one takes the next call."""


class Birth:
    """An init under way: the far end of its socket, and the nursery's word on its process."""

    __slots__ = ("control", "nursery")

    def __init__(self, control: socket.socket, nursery: Nursery) -> None:
        self.control = control
        self.nursery = nursery

    def process(self) -> tuple[int, int]:
        """Wait for the process; return its pid and pidfd. Raises OSError, or NurseryGone."""
        return self.nursery.deliver()

    def abandon(self) -> None:
        """Kill what has been born, if anything has."""
        self.control.close()
        try:
            pid, pidfd = self.nursery.deliver()
        except OSError:
            return
        os.close(pidfd)
        kill_and_reap(pid)


class Nursery:
    """The spawner's side. One birth at a time: `bear`, then `deliver`."""

    def __init__(self) -> None:
        self._pid = 0
        self._control: socket.socket | None = None
        self._known: set[str] = set()
        """Plans that the process keeps."""

    def bear(self, message: Message, plan: Message, fds: Sequence[int]) -> Birth:
        """Have an init cloned; of the descriptors the first is whom it tells that it is ready.

        `message` has the key of the plan, the flags of its namespaces, and `is_ahead`.
        """
        own, control = protocol.pair()
        with control:
            every = [control.fileno(), *fds]
            try:
                self._send(message, plan, every)
            except ConnectionError:  # somebody has killed it
                self.end()
                self._send(message, plan, every)
        return Birth(own, self)

    def deliver(self) -> tuple[int, int]:
        """Return the pid and the pidfd of what `bear` has asked for."""
        if self._control is None:
            raise _gone()
        try:
            message, fds = protocol.receive(self._control)
        except ConnectionError:
            message, fds = None, []
        if message is None:
            self.end()
            raise _gone()
        if "errno" in message:
            raise OSError(message["errno"], message["text"], message["subject"])
        return int(message["pid"]), fds[0]

    def begin(self) -> socket.socket:
        """Fork the process, which has the caller's memory, as it is now, for its children."""
        own, far = protocol.pair()
        with far:
            self._pid, pidfd = forks.fork()
            if self._pid == 0:
                _serve(far)
            os.close(pidfd)
        self._control = own
        self._known.clear()
        return own

    def end(self) -> None:
        """End the process; the inits that it had live on. Idempotent."""
        if self._control is not None:
            self._control.close()
            self._control = None
            kill_and_reap(self._pid)

    def _send(self, message: Message, plan: Message, fds: Sequence[int]) -> None:
        control = self._control or self.begin()
        key = message["key"]
        if key not in self._known:
            if len(self._known) >= KEPT_PLANS:
                self._known.clear()
            parts = {"init": plan["init"], "late": plan["late"]}
            protocol.send(control, {"key": key, "plan": parts})
            self._known.add(key)
        protocol.send(control, message, fds)


def kill_and_reap(pid: int) -> int:
    """Kill an init; returns when its whole pid namespace is gone (pid_namespaces(7))."""
    os.kill(pid, signal.SIGKILL)  # a child that is not reaped keeps its pid
    return os.waitpid(pid, 0)[1]


def _gone() -> NurseryGone:
    return NurseryGone(errno.ECHILD, "the process that has the inits was killed", "nursery")


def _serve(control: socket.socket) -> None:
    """Have inits until the spawner is gone; never returns."""
    try:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        try:
            _rehearse()
        except OSError:
            pass  # what is wrong here, the first command will say
        commands.forget()
        init.close_others(control.fileno())
        plans: dict[str, Message] = {}
        while True:
            message, fds = protocol.receive(control)
            if message is None:
                break
            if "plan" in message:
                if len(plans) >= KEPT_PLANS:
                    plans.clear()
                plan = message["plan"]
                plans[message["key"]] = {part: steps.prepare(plan[part]) for part in plan}
            else:
                _bear(plans[message["key"]], message, fds, control)
    finally:
        os._exit(0)


def _rehearse() -> None:
    """Go through the motions of a start and of a command, as every init will.

    What the interpreter notes on the way, in code that becomes fast, in look-ups that are
    remembered, is then noted before the fork, and no init copies pages for it.
    """
    call = [prepared.prctl(syscalls.PR_CAPBSET_READ, 0)]
    plan = {"init": [("rehearse", steps.make, (call,))]}
    for _ in range(REHEARSALS):
        own, control = protocol.pair()
        waiting, reply = protocol.pair()
        with own, waiting:
            start = init.Start(plan, [control.detach(), reply.detach()], is_ahead=True)
            folder_fd = os.open("/", os.O_PATH | os.O_CLOEXEC)
            root = {"trees": 0, "entrances": [0, 0, 0, 0]}
            protocol.send(own, root, [folder_fd])
            os.close(folder_fd)
            start.await_root()
            start.carry_out("init")
            start.close_root()
            start.tell_ready()
            with start.control:
                init.Init(start.control, start.group).rehearse()


def _bear(plan: Message, message: Message, fds: list[int], control: socket.socket) -> None:
    try:
        pid, pidfd = forks.fork(message["namespaces"] | syscalls.CLONE_PARENT)
    except OSError as error:
        frame = {"errno": error.errno, "text": error.strerror, "subject": error.filename}
        protocol.send(control, frame)
    else:
        if pid == 0:
            os.close(control.fileno())
            init.main(init.Start(plan, fds, is_ahead=message["is_ahead"]))
        protocol.send(control, {"pid": pid}, [pidfd])
        os.close(pidfd)
    finally:
        protocol.close_all(fds)
