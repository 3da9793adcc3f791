"""The pytest side of a container's init: asking it, and starting commands through it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pytest_rootfs.errors import ContainerDied
from pytest_rootfs.runtime import protocol
from pytest_rootfs.runtime.client import CALL_TIMEOUT_S, Conversation, PeerGone, StepFailed
from pytest_rootfs.runtime.gaps import Gap
from pytest_rootfs.runtime.launch import Call
from pytest_rootfs.runtime.process import Process
from pytest_rootfs.runtime.protocol import Message
from pytest_rootfs.runtime.records import CommandRecord
from pytest_rootfs.runtime.refusals import no_descriptors, refused
from pytest_rootfs.runtime.terms import Terms

if TYPE_CHECKING:
    from pytest_rootfs.runtime.session import Created

UNHEARD_S = 1.0
"""How long an interrupted call waits to hear of its command, to kill it."""


class Agent:
    """An init: a container has another one after each restart.

    `died` says, and asks the spawner, why it is gone; `why_failed` which limit a failed command
    has hit; `id_gap` why some users do not exist.
    """

    def __init__(
        self,
        created: Created,
        *,
        died: Callable[[], ContainerDied],
        why_failed: Callable[[int], str],
        id_gap: Gap,
    ) -> None:
        self._peer = created.peer
        self._pidfd = created.pidfd
        self.died = died
        self.why_failed = why_failed
        self.id_gap = id_gap
        self.was_replaced = False
        """Whether a restart has ended it, and every process with it."""

    def ask(self, message: Message, fds: Sequence[int] = ()) -> Message:
        """Return the answer to a call that gives no descriptors back."""
        answer, given = self.ask_with_fds(message, fds)
        protocol.close_all(given)
        return answer

    def ask_with_fds(self, message: Message, fds: Sequence[int] = ()) -> tuple[Message, list[int]]:
        """Return the answer to a call; raises OSError of the kernel, or ContainerDied."""
        __tracebackhide__ = True
        try:
            return self._peer.call(message, fds)
        except (PeerGone, TimeoutError) as error:
            raise self.died() from error

    def given(self, message: Message) -> list[int]:
        """Return the descriptors that a call gives; none where it fails, and nobody is told."""
        try:
            return self._peer.call(message)[1]
        except (PeerGone, OSError):
            return []

    def start(
        self, call: Call, terms: Terms, record: CommandRecord, *, is_cramped: bool = False
    ) -> Process:
        """Start a command; raises what `run` says. `is_cramped`: it might use up all memory."""
        __tracebackhide__ = True
        message, fds = call.request()
        message["is_cramped"] = is_cramped
        try:
            conversation = self._peer.ask(message, fds)
        except PeerGone as error:
            raise self.died() from error
        try:
            started, given = conversation.receive(CALL_TIMEOUT_S)
        except StepFailed as error:
            conversation.close()
            raise refused(error, call, self.id_gap) from None
        except (PeerGone, TimeoutError) as error:
            conversation.close()
            raise self.died() from error
        except protocol.NoRoom as error:
            conversation.close()
            self._kill_started(error.message)
            raise no_descriptors(call) from error
        except BaseException:
            self._kill_unheard(conversation)  # Ctrl-C, say: nothing goes on behind the test's back
            raise
        return Process(
            call.command,
            started,
            given,
            piped=call.piped,
            conversation=conversation,
            agent=self,
            terms=terms,
            record=record,
            is_tty=call.tty,
        )

    def _kill_unheard(self, conversation: Conversation) -> None:
        """Kill a command that init may be about to tell of; init does, if that comes too late."""
        try:
            started, given = conversation.receive(UNHEARD_S)
            protocol.close_all(given)
            self._kill_started(started)
        except (PeerGone, ContainerDied, OSError):
            pass  # then there is none, or nothing more can be done
        finally:
            conversation.close()

    def _kill_started(self, started: Message) -> None:
        if "pid" in started:  # else that was an exit notice
            self.ask({"op": "kill_tree", "pid": started["pid"], "marker": started["marker"]})

    def kill(self) -> None:
        """Kill init, and with it everything in the container; raises TimeoutError.

        Returns when all are dead. Init may be a zombie, which the spawner is about to reap.
        """
        # it has died; or init ends by its socket's end, where the call is denied or unknown
        with contextlib.suppress(OSError, AttributeError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        self._peer.close()
        dead = select.poll()
        dead.register(self._pidfd, select.POLLIN)
        if not dead.poll(CALL_TIMEOUT_S * 1000):
            raise TimeoutError

    def close(self) -> None:
        """Close what is kept of init, which ends if it has not. Idempotent."""
        self._peer.close()
        pidfd, self._pidfd = self._pidfd, -1
        if pidfd >= 0:
            with contextlib.suppress(OSError):  # a test has closed it, by its number
                os.close(pidfd)
