"""The life of a container: its init, whether it is alive, and why it is not."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Literal

from pytest_rootfs.errors import ContainerDied, ContainerError, shown
from pytest_rootfs.runtime import deaths
from pytest_rootfs.runtime.agent import Agent
from pytest_rootfs.runtime.home import Home
from pytest_rootfs.runtime.launch import Call
from pytest_rootfs.runtime.limit_watch import Hits, LimitWatch
from pytest_rootfs.runtime.process import Process
from pytest_rootfs.runtime.protocol import Message
from pytest_rootfs.runtime.records import CommandRecord
from pytest_rootfs.runtime.refusals import StandsStill
from pytest_rootfs.runtime.terms import Terms

if TYPE_CHECKING:
    from pytest_rootfs.runtime.container import Container
    from pytest_rootfs.runtime.session import Created

DYING_S = 1.0
"""How long an init that no longer answers may take to die with all its processes."""

ANEW = "container.restart() begins anew with its files"

CRAMPED_BYTES = 256 << 20
"""A command can use up a smaller memory limit before init, which vforks it within the memory group,
is scheduled to leave that again; the kernel might then kill init for it."""


class Life:
    """What a container's processes go through; a path reaches the container's init by it.

    `space_note` says which limit a path is under that has no room left; `overhear` notes the last
    words of processes that somebody has started.
    """

    def __init__(
        self,
        container: Container,
        created: Created,
        home: Home,
        *,
        watch: LimitWatch,
        commands: Sequence[CommandRecord],
        space_note: Callable[[str], str],
        overhear: Callable[[], None],
    ) -> None:
        self.container = container
        self.home = home
        self.space_note = space_note
        self.id_gap = home.id_gap
        self.state: Literal["alive", "dead", "closed"] = "alive"
        self.is_frozen = False
        self._by_group = False
        self.agent = self._agent_of(created)
        self._overhear = overhear
        self._watch = watch
        self._commands = commands
        self._has_rw_layer = True
        self._owner_pid = os.getpid()
        """A fork of this process inherits the container, and does not end it."""
        self._death: ContainerDied | None = None
        self._changing = threading.Lock()
        """Held while the container is killed, restarted or closed."""
        self._standing = threading.RLock()
        """Held while the processes are stopped or let go on, and while something relies on it."""

    def ask_with_fds(self, message: Message, fds: Sequence[int] = ()) -> tuple[Message, list[int]]:
        """Return init's answer to a call; raises OSError of the kernel, or ContainerDied."""
        __tracebackhide__ = True
        return self.agent.ask_with_fds(message, fds)

    def ask_if_alive(self, op: str) -> Message:
        """Return init's answer to a call without arguments; of a dead container it is empty."""
        if self.state != "alive":
            return {}
        try:
            return self.agent.ask({"op": op})
        except ContainerDied:
            return {}

    def require_alive(self) -> None:
        """Raise ContainerDied for a container that is not alive."""
        __tracebackhide__ = True
        if self.state != "alive":
            raise self.died()

    def require_rw_layer(self) -> None:
        """Raise ContainerDied for a container whose files and figures are gone."""
        if not self._has_rw_layer:
            name = self.container.name
            raise ContainerDied(f"container {name} is closed and its rw layer given up")

    def start(self, call: Call, terms: Terms, record: CommandRecord) -> Process:
        """Start a command; raises what `run` says."""
        __tracebackhide__ = True
        self.home.note_env(call.env)
        while True:
            self.require_alive()
            if self.is_frozen:
                raise ContainerError(
                    f"container {self.container.name} is frozen: it cannot run {shown(call.argv)}",
                    hint="call container.thaw() first; files can be read and written meanwhile",
                )
            try:
                memory = self.container.limits.memory
                is_cramped = memory is not None and memory < CRAMPED_BYTES
                return self.agent.start(call, terms, record, is_cramped=is_cramped)
            except StandsStill:
                with self._standing:
                    pass  # another thread packs or compares: wait until the processes go on

    def freeze(self) -> None:
        """Let every process stand still. Idempotent."""
        with self._standing:
            self.require_alive()
            if self.is_frozen:
                return
            try:
                self._stop()
                self.is_frozen = True
            except BaseException:  # a Ctrl-C as well: nobody would let them go on
                self._go_on_if_alive()
                raise

    def thaw(self) -> None:
        """Let those processes go on that `freeze` has stopped. Idempotent."""
        with self._standing:
            self.require_alive()
            if self.is_frozen:
                self._go_on()
                self.is_frozen = False

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Let every process stand still for the length of a `with` block.

        A frozen container stays frozen. Of a dead one none has to be told.
        """
        with self._standing:
            is_stopped_here = self.state == "alive" and not self.is_frozen
            try:
                if is_stopped_here:
                    with suppress(ContainerError, OSError):
                        self._stop()  # one that has died, or does not stop, is read all the same
                yield
            finally:
                if is_stopped_here:
                    self._go_on_if_alive()

    def kill(self) -> None:
        """Kill every process. Idempotent."""
        with self._changing:
            self._require_owner()
            if self.state == "alive":
                self.state, self.is_frozen = "dead", False
                self._kill(release=False, is_awaited=True)

    def restart(self) -> int:
        """Kill every process and begin anew on the same files; return the pid of the new init."""
        return self.begin_anew(partial(self.home.restart, self.container))

    def begin_anew(self, restart: Callable[[], Created]) -> int:
        """Begin anew by `restart`, which kills every process; return the pid of the new init.

        Raises ContainerDied when it is closed. After another error it is dead.
        """
        with self._standing, self._changing:
            self._require_owner()
            if self.state == "closed":
                raise self.died()
            old = self.agent
            old.was_replaced = True  # before anybody can see that its processes are dead
            name = self.container.name
            self.state, self.is_frozen = "dead", False
            self._death = ContainerDied(f"container {name} is being restarted by another thread")
            try:
                created = restart()
            except BaseException as error:
                self._death = ContainerDied(
                    f"container {name} is dead since its restart failed",
                    detail=str(error) or type(error).__name__,
                    hint=ANEW,
                )
                with suppress(ContainerError, OSError):  # the first error is the one to report
                    self.home.kill(self.container, release=False)
                raise
            finally:
                old.close()
            self.agent = self._agent_of(created)
            self.state, self._death = "alive", None
            return created.pid

    def close(self, *, retain: bool, is_awaited: bool) -> None:
        """Kill every process, and give up the rw layer unless it is retained. Idempotent.

        `is_awaited` says that init is to be no zombie any more.
        """
        with self._changing:
            if self.state == "closed":
                return
            was_alive = self.state == "alive"
            self.state, self.is_frozen = "closed", False
            try:
                if os.getpid() != self._owner_pid:
                    return  # what follows closes the descriptors that this process has inherited
                if was_alive:
                    self._kill(release=not retain, is_awaited=is_awaited)
                elif not retain:
                    self.home.release(self.container)
            finally:
                self.agent.close()
                self._has_rw_layer = retain

    def release(self) -> None:
        """Give up the rw layer of a closed container. Idempotent."""
        if self.state == "closed" and self._has_rw_layer:
            self._has_rw_layer = False
            if os.getpid() == self._owner_pid:
                self.home.release(self.container)

    def died(self) -> ContainerDied:
        """Find out why the container does not answer."""
        name = self.container.name
        if self.state == "closed":
            return ContainerDied(f"container {name} is closed")
        if self._death is not None:
            death = self._death
            return ContainerDied(death.what, detail=death.detail, hint=death.hint)
        if self.state == "dead":
            return ContainerDied(f"container {name} was killed by the test", hint=ANEW)
        try:
            # its socket closes a moment before it is dead
            status = self.home.status(self.container, wait_s=DYING_S)
        except ContainerDied as error:
            self.state, self._death = "dead", error
            return error
        self._overhear()
        death = deaths.explain(name, status, self._watch, self._commands)
        if status["status"] is not None:
            self.state, self._death = "dead", death
        return death

    def look_at_limits(self, returncode: int, *, is_error: bool) -> Hits:
        """Find out what was hit since the last look; looks only where something may have been."""
        limits = self.container.limits
        may_be_oom = limits.memory is not None or returncode in (-signal.SIGKILL, 137)
        if not may_be_oom and not (is_error and returncode):
            return Hits()
        self.require_rw_layer()
        return self._watch.look(self.home.status(self.container))

    def why_late(self) -> str:
        """Say what has held a command back, or made it fail."""
        try:
            hits = self._watch.look(self.home.status(self.container))
        except ContainerDied:
            return ""  # of the command's time-out, its output is what there is to tell
        return "; ".join(filter(None, (hits.reason, hits.held_back)))

    def _why_failed(self, returncode: int) -> str:
        """Say which limit a failed command has hit."""
        try:
            return self.look_at_limits(returncode, is_error=True).reason
        except ContainerDied:
            return ""  # of the command's failure, its status is what there is to tell

    def _require_owner(self) -> None:
        """Raise ContainerError in a fork of the process that has made the container."""
        if os.getpid() != self._owner_pid:
            raise ContainerError(
                f"container {self.container.name} can only be killed or begin anew by process "
                f"{self._owner_pid}, which has made it",
                hint="in a fork of that, start another container",
            )

    def _kill(self, *, release: bool, is_awaited: bool) -> None:
        try:
            if is_awaited:
                self.agent.close()  # init begins to die while the spawner is told to kill it
                self.home.kill(self.container, release=release)
            else:  # without the spawner's word, which would take half as long again
                self.agent.kill()
                if release:
                    self.home.release(self.container)
        except TimeoutError as error:
            raise ContainerError(
                f"container {self.container.name} cannot be killed: a process ignores even SIGKILL",
                hint="a file system or a device that it waits for may be stuck",
            ) from error
        except BaseException:  # a Ctrl-C, say: nobody can ask for it again
            if release:
                self.home.release(self.container)
            raise
        finally:
            self.agent.close()

    def _agent_of(self, created: Created) -> Agent:
        return Agent(created, died=self.died, why_failed=self._why_failed, id_gap=self.id_gap)

    def _stop(self) -> None:
        answer = self.agent.ask({"op": "stop", "stop": True})
        self._by_group = bool(answer["by_group"])
        if self._by_group:
            self.home.freeze(self.container, frozen=True)

    def _go_on_if_alive(self) -> None:
        with suppress(ContainerError, OSError):  # it died meanwhile
            self._go_on()

    def _go_on(self) -> None:
        """Let the processes go on; first the group, lest init starts a command in a frozen one."""
        try:
            if self._by_group:
                self.home.freeze(self.container, frozen=False)
        finally:
            self.agent.ask({"op": "stop", "stop": False})
