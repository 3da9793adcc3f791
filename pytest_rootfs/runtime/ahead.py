"""A container that is made before anybody has asked for it."""

from __future__ import annotations

import select

from pytest_rootfs.runtime import protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_rootfs.kernel.sockets import Socket
    from pytest_rootfs.runtime.protocol import Message
    from pytest_rootfs.runtime.spawned import Container

READY_S = 10.0


class Ahead:
    """A container that nobody has asked for yet, and the conversation in which it is ready."""

    __slots__ = ("container", "conversation", "key", "wants_trees")

    def __init__(self, key: str, plan: Message, container: Container, conversation: Socket) -> None:
        self.key = key
        self.container = container
        self.conversation = conversation
        self.wants_trees: bool = plan["wants_trees"]
        """Whether it stands before the mounts of people, whose trees come with the call."""

    def answer(self, tree_fds: Sequence[int]) -> Message:
        """Give it what came with the call; return what it says, nothing from one that is dead.

        Nothing also where it failed before anybody had asked: that says nothing about now.
        """
        self.conversation.settimeout(READY_S)
        try:
            if self.wants_trees:
                if self._has_spoken:
                    return {}
                protocol.send(self.conversation, {}, tree_fds)
            message, fds = protocol.receive(self.conversation)
        except OSError:
            return {}
        protocol.close_all(fds)
        if message is None or ("ready" in message and self.container.init.is_dead):
            return {}
        return message

    @property
    def _has_spoken(self) -> bool:
        """Whether it has said something, or has ended."""
        said = select.poll()
        said.register(self.conversation, select.POLLIN)
        return bool(said.poll(0))
