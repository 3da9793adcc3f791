"""The pytest side of a conversation with the warden, the spawner or an init."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Mapping, Sequence

from pytest_rootfs.kernel.sockets import Socket
from pytest_rootfs.runtime import protocol
from pytest_rootfs.runtime.protocol import Message

CALL_TIMEOUT_S = 60.0
"""No answer of a healthy process takes a second; one that takes a minute will not come."""


class PeerGone(Exception):
    """The process on the other side has ended."""


class StepFailed(OSError):
    """The process on the other side could not do one step; has its name, subject and errno."""

    def __init__(self, error: Message) -> None:
        super().__init__(int(error["errno"]), str(error["text"]), str(error["subject"]))
        self.step = str(error["step"])

    def __str__(self) -> str:
        """Write step, subject and reason."""
        subject = f" {self.filename}" if self.filename else ""
        return f"{self.step}{subject}: {self.strerror}"


class Conversation:
    """One call and its answers. Closing it early is allowed: the other side does not mind."""

    def __init__(self, own: Socket) -> None:
        self.socket = own

    def receive(self, timeout_s: float | None = CALL_TIMEOUT_S) -> tuple[Message, list[int]]:
        """Return the next answer and its descriptors.

        Raises PeerGone, StepFailed, or TimeoutError after `timeout_s` seconds.
        """
        self.socket.settimeout(timeout_s)
        try:
            message, fds = protocol.receive(self.socket)
        except ConnectionError as error:
            raise PeerGone(str(error)) from None
        if message is None:
            raise PeerGone("end of file")
        if "error" in message:
            protocol.close_all(fds)
            raise StepFailed(message["error"])
        return message, fds

    def close(self) -> None:
        """End the conversation; idempotent."""
        self.socket.close()


class Peer:
    """A process that answers calls. Safe to use from several threads."""

    def __init__(self, own: Socket) -> None:
        self._socket = own

    def ask(
        self, message: Mapping[str, object], fds: Sequence[int] = (), *, encoded: str = ""
    ) -> Conversation:
        """Start a conversation; raises PeerGone."""
        ours, theirs = protocol.pair()
        try:
            self.tell(message, [theirs.fileno(), *fds], encoded=encoded)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return Conversation(ours)

    def tell(
        self, message: Mapping[str, object], fds: Sequence[int] = (), *, encoded: str = ""
    ) -> None:
        """Say what needs no answer; raises PeerGone."""
        try:
            protocol.send(self._socket, message, fds, encoded=encoded)
        except ConnectionError as error:
            raise PeerGone(str(error)) from None
        except OSError as error:
            # EBADF, ENOTSOCK: somebody has closed it by its number
            if self._socket.fileno() < 0 or error.errno in (errno.EBADF, errno.ENOTSOCK):
                raise PeerGone("its socket is closed") from None
            raise OSError(error.errno, error.strerror, f"send {message.get('op')}") from None

    def call(
        self,
        message: Mapping[str, object],
        fds: Sequence[int] = (),
        *,
        timeout_s: float | None = CALL_TIMEOUT_S,
    ) -> tuple[Message, list[int]]:
        """Ask and return the only answer; raises as `Conversation.receive` does."""
        conversation = self.ask(message, fds)
        try:
            return conversation.receive(timeout_s)
        finally:
            conversation.close()

    def close(self) -> None:
        """End the process on the other side, if nobody else has its socket; idempotent."""
        with contextlib.suppress(OSError):  # a test has closed it, by its number
            self._socket.close()

    def end(self) -> None:
        """End the process on the other side, whoever has inherited its socket; idempotent."""
        with contextlib.suppress(PeerGone, OSError):  # then it has ended, or hears of it by `close`
            self.tell(protocol.END)
        self.close()
