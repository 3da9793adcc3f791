"""The init: process 1 of a container, its reaper and its agent.

Cloned by the nursery, it never execs. When it has carried out its plan (`newborn`), it answers
pytest: starts commands, reports their ends, opens files. From the pivot on nothing may be imported
and no path of the host exists. It ends when pytest closes its socket, and everything in the
container with it.
"""

from __future__ import annotations

import errno
import os
import resource
import select

from pytest_rootfs.kernel import forks, inside, signals, syscalls
from pytest_rootfs.kernel.cgroups_session import Entrances
from pytest_rootfs.runtime import commands, files, processes, programs, protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_rootfs.kernel.sockets import Socket
    from pytest_rootfs.runtime.protocol import Message

SIGCHLD_BIT = 1 << (signals.SIGCHLD - 1)

_signal_fds: list[int] = []


def prepare() -> None:
    """Do, in the spawner, what every init would do again: signals are inherited."""
    signals.pthread_sigmask(signals.SIG_BLOCK, {signals.SIGCHLD})
    signals.signal(signals.SIGINT, signals.SIG_DFL)  # no handler: process 1 then ignores it
    for number in signals.valid_signals():  # what nohup, or a shell's `&`, has pytest ignore
        if signals.getsignal(number) is signals.SIG_IGN and number not in commands.DEFAULTED:
            signals.signal(number, signals.SIG_DFL)
    _signal_fds.append(syscalls.signalfd(SIGCHLD_BIT))
    forks.has_clone3()
    inside.has_openat2()
    commands.prepare()


def close_others(*fds: int) -> None:
    """Close, in the nursery, all descriptors but those given and what every init needs."""
    first = 3
    for fd in sorted([*fds, *_signal_fds, *commands.needed_fds()]):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, 1 << 20)


class Init:
    """The agent's loop and what it remembers of running commands."""

    def __init__(self, control: Socket, group: Entrances) -> None:
        self._control = control
        self._group = group
        self._poller = select.poll()
        self._poller.register(control, select.POLLIN)
        self._running: dict[int, tuple[Socket, int]] = {}
        """Commands by pid: the conversation that waits for the end, and the cgroup namespace."""
        self._stopped: dict[int, str] | None = None
        """While all stand still: the states of the processes before."""
        self._calls = {
            "spawn": self._spawn,
            "signal": self._signal,
            "kill_tree": self._kill_tree,
            "processes": self._processes,
            "scene": self._scene,
            "unlinked": self._unlinked,
            "stop": self._stop,
            "adopt": self._adopt,
        }

    def serve(self) -> None:
        """Answer calls, reap, drain; until pytest closes the socket."""
        signal_fd = _signal_fds[0]
        self._poller.register(signal_fd, select.POLLIN)
        while True:
            for fd, _ in self._poller.poll():
                if fd == self._control.fileno():
                    if not self._answer_one():
                        return
                elif fd == signal_fd:
                    os.read(signal_fd, 128)
                    self._reap()
                else:
                    self._drain(fd)

    def is_asked_within(self, timeout_ms: int) -> bool:
        """Wait for the first call; tell whether it has come."""
        return bool(self._poller.poll(timeout_ms))

    def rehearse(self) -> None:
        """Go through the motions of a command, so that the first one finds its memory ready.

        After a fork, the first write to each page copies it. A first command writes to 150 pages
        and the next to 3; while nobody waits, one that cannot be started writes to them as well.
        It enters no control group: what it takes is no figure of the container.
        """
        message = {
            "op": "spawn",
            "argv": ["rootfs-rehearsal"],
            "env": {"PATH": programs.SHELL_PATH},
            "cwd": "/.",  # for "/" no folder would be opened
            "user": "0",
            "stdio": ["null", "pipe", "pipe"],
            "tty": None,
            "is_cramped": False,
        }
        own, far = protocol.pair()
        with own, far:
            protocol.send(own, message, [far.fileno()])
            request, fds = protocol.receive(far)
            try:
                commands.rehearse(request or message, Entrances())
                # not a socket: one that waits in its own queue is there until the kernel looks
                protocol.send(own, {"pid": 0, "marker": 0}, commands.needed_fds())
                self._reap()
                self._report(far, 0, resource.getrusage(resource.RUSAGE_SELF))
            finally:
                protocol.close_all(fds)

    def _answer_one(self) -> bool:
        try:
            message, fds = protocol.receive(self._control)
        except ConnectionError:
            return False
        except OSError:
            return True  # not a frame; whoever sent it sees its conversation end
        if message is None:
            return False
        reply = protocol.end_of(fds[0])
        try:
            op = message["op"]
            if op in self._calls:
                self._calls[op](message, fds[1:], reply)
            else:
                answer, given = files.CALLS[op](message)
                try:
                    protocol.send(reply, answer, given)
                finally:
                    protocol.close_all(given)
        except OSError as error:
            step = error.step if isinstance(error, commands.SpawnError) else message["op"]
            protocol.send_error(reply, error, step)
        except Exception as error:  # noqa: BLE001  one bad request must not end the container
            text = f"{type(error).__name__}: {error}"
            protocol.send_error(reply, OSError(0, text), message["op"])
        finally:
            if message["op"] != "adopt":
                protocol.close_all(fds[1:])
            if not self._is_kept(reply):
                reply.close()
        return True

    def _is_kept(self, reply: Socket) -> bool:
        return any(kept is reply for kept, _ in self._running.values())

    def _answer(self, reply: Socket, message: Message) -> None:
        try:
            protocol.send(reply, message)
        except OSError:
            pass  # whoever asked has gone

    def _spawn(self, message: Message, fds: list[int], reply: Socket) -> None:
        """Start a command; its end is reported on the same conversation.

        One that nobody hears of, as who asked was interrupted, is killed.
        """
        if self._stopped is not None:
            error = OSError(errno.EBUSY, "every process of the container stands still")
            raise commands.SpawnError(error, "frozen")
        pid, marker, given = commands.spawn(message, fds, self._group)
        self._running[pid] = reply, marker
        try:
            protocol.send(reply, {"pid": pid, "marker": marker}, given)
        except OSError:
            self._kill_one(pid, marker)
            raise
        finally:
            protocol.close_all(given)

    def _reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._running:
                reply, _ = self._running.pop(pid)
                self._report(reply, status, usage)
                reply.close()

    def _report(self, reply: Socket, status: int, usage: resource.struct_rusage) -> None:
        self._answer(
            reply,
            {
                "exit": os.waitstatus_to_exitcode(status),
                "user_s": usage.ru_utime,
                "system_s": usage.ru_stime,
                "max_rss_bytes": usage.ru_maxrss * 1024,
            },
        )

    def _signal(self, message: Message, _fds: list[int], reply: Socket) -> None:
        """Send a signal to a command that has not been reaped: its pid cannot be another's."""
        if message["pid"] in self._running:
            os.kill(message["pid"], message["signal"])
        protocol.send(reply, {})

    def _kill_tree(self, message: Message, _fds: list[int], reply: Socket) -> None:
        """Kill a command and everything it started, daemons too; answers when all are dead."""
        self._kill_one(message["pid"], message["marker"])
        self._reap()
        protocol.send(reply, {})

    def _kill_one(self, pid: int, marker: int) -> None:
        if pid in self._running:
            os.kill(pid, signals.SIGKILL)
        processes.kill_marked(marker)

    def _processes(self, _message: Message, _fds: list[int], reply: Socket) -> None:
        protocol.send(reply, {"processes": processes.listing()})

    def _scene(self, _message: Message, _fds: list[int], reply: Socket) -> None:
        protocol.send(reply, processes.scene(self._stopped or {}))

    def _unlinked(self, _message: Message, _fds: list[int], reply: Socket) -> None:
        protocol.send(reply, {"files": processes.unlinked_files()})

    def _stop(self, message: Message, _fds: list[int], reply: Socket) -> None:
        """Let every process of the container but this one stand still, or go on. Idempotent.

        Where commands are in a cgroup of version 2, the spawner freezes that: here, then, only the
        starting of commands stops, as one that is born frozen would never report.
        """
        by_group = self._group.into_fd is not None
        if message["stop"] and self._stopped is None:
            self._stopped = {} if by_group else processes.stop_all()
        elif not message["stop"] and self._stopped is not None:
            if not by_group:
                processes.continue_all(self._stopped)
            self._stopped = None
        protocol.send(reply, {"by_group": by_group})

    def _adopt(self, _message: Message, fds: list[int], reply: Socket) -> None:
        """Go on reading pipes that a daemon still holds, so that it neither blocks nor dies."""
        for fd in fds:
            os.set_blocking(fd, False)
            self._poller.register(fd, select.POLLIN)
        protocol.send(reply, {})

    def _drain(self, fd: int) -> None:
        try:
            ended = not os.read(fd, 65536)
        except BlockingIOError:
            return
        except OSError:
            ended = True  # EIO: a terminal that nobody has open any more (tty(4))
        if ended:
            self._poller.unregister(fd)
            os.close(fd)
