"""The life of a container: its init, whether it is alive, and why it is not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from pytest_rootfs.errors import ContainerDied
from pytest_rootfs.runtime import deaths
from pytest_rootfs.runtime.agent import Agent
from pytest_rootfs.runtime.client import Peer
from pytest_rootfs.runtime.home import Home
from pytest_rootfs.runtime.limit_watch import LimitWatch
from pytest_rootfs.runtime.protocol import Message
from pytest_rootfs.runtime.records import CommandRecord

if TYPE_CHECKING:
    from pytest_rootfs.runtime.container import Container

DYING_S = 1.0
"""How long an init that no longer answers may take to die with all its processes."""


class Life:
    """What a container's processes go through; a path reaches the container's init by it.

    `why_failed` says which limit a failed command has hit, `space_note` which limit a path is under
    that has no room left.
    """

    def __init__(
        self,
        container: Container,
        peer: Peer,
        home: Home,
        *,
        watch: LimitWatch,
        commands: Sequence[CommandRecord],
        why_failed: Callable[[int], str],
        space_note: Callable[[str], str],
    ) -> None:
        self.container = container
        self.home = home
        self.space_note = space_note
        self.state: Literal["alive", "dead", "closed"] = "alive"
        self.agent = Agent(peer, died=self.died, why_failed=why_failed)
        self._why_failed = why_failed
        self._watch = watch
        self._commands = commands
        self._has_rw_layer = True
        self._death: ContainerDied | None = None
        self._changing = threading.Lock()

    def ask_with_fds(self, message: Message, fds: Sequence[int] = ()) -> tuple[Message, list[int]]:
        """Return init's answer to a call; raises OSError of the kernel, or ContainerDied."""
        __tracebackhide__ = True
        return self.agent.ask_with_fds(message, fds)

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

    def kill(self) -> None:
        """Kill every process. Idempotent."""
        with self._changing:
            if self.state == "alive":
                self.state = "dead"
                self.home.kill(self.container, release=False)
                self.agent.close()

    def restart(self) -> int:
        """Kill every process and begin anew; return the pid of the new init.

        Raises ContainerDied when it is closed. After another error it is dead.
        """
        with self._changing:
            if self.state == "closed":
                raise self.died()
            old = self.agent
            old.was_replaced = True  # before anybody can see that its processes are dead
            self.state, self._death = "dead", None
            try:
                created = self.home.restart(self.container)
            except BaseException as error:
                self.home.kill(self.container, release=False)
                name = self.container.name
                self._death = ContainerDied(
                    f"container {name} is dead since its restart failed", detail=str(error)
                )
                raise
            finally:
                old.close()
            self.agent = Agent(created.peer, died=self.died, why_failed=self._why_failed)
            self.state = "alive"
            return created.pid

    def close(self, *, retain: bool) -> None:
        """Kill every process, and give up the rw layer unless it is retained. Idempotent."""
        with self._changing:
            if self.state == "closed":
                return
            was_alive, self.state = self.state == "alive", "closed"
            try:
                if was_alive:
                    self.home.kill(self.container, release=not retain)
                elif not retain:
                    self.home.release(self.container)
            finally:
                self.agent.close()
                self._has_rw_layer = retain

    def release(self) -> None:
        """Give up the rw layer of a closed container. Idempotent."""
        if self.state == "closed" and self._has_rw_layer:
            self._has_rw_layer = False
            self.home.release(self.container)

    def died(self) -> ContainerDied:
        """Find out why the container does not answer."""
        name = self.container.name
        if self.state == "closed":
            return ContainerDied(f"container {name} is closed")
        if self._death is not None:
            return ContainerDied(self._death.what, detail=self._death.detail)
        if self.state == "dead":
            return ContainerDied(f"container {name} was killed by the test")
        try:
            # its socket closes a moment before it is dead
            status = self.home.status(self.container, wait_s=DYING_S)
        except ContainerDied as error:
            self.state, self._death = "dead", error
            return error
        death = deaths.explain(name, status, self._watch, self._commands)
        if status["status"] is not None:
            self.state, self._death = "dead", death
        return death
