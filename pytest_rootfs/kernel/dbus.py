"""Call a D-Bus service and wait for one of its signals: as much as a request to systemd takes.

Source: the D-Bus specification, "Authentication Protocol" and "Message Bus Specification". Speaks
over unix sockets only, only with a listener of our own user, and not beyond its deadline. Raises
`OSError` only.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import time

from pytest_rootfs.kernel import dbus_messages as messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Any  # a value of whichever type its signature says

    from pytest_rootfs.kernel.dbus_messages import Message

BUS = "org.freedesktop.DBus"
BUS_PATH = "/org/freedesktop/DBus"
LINE_BYTES = 1024


class ErrorReply(OSError):
    """What the service answered instead; `name` is the error's, `strerror` its words."""

    def __init__(self, name: str, words: str) -> None:
        super().__init__(errno.EREMOTEIO, words or name)
        self.name = name


class Connection:
    """A conversation with a bus, or with a service on a socket of its own, within `timeout_s`.

    Of the signals that come, only those with the name `signal` are kept.
    """

    def __init__(self, address: str, timeout_s: float, *, signal: str) -> None:
        """Connect to a socket's path, or to an abstract one's, which begins with a zero byte."""
        self._deadline = time.monotonic() + timeout_s
        self._serial = 0
        self._received = b""
        self._signal = signal
        self._signals: list[list[Any]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._connect(address)
            self._authenticate()
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._socket.close()

    def call(
        self,
        target: tuple[str, str, str],
        member: str,
        signature: str = "",
        values: tuple[Any, ...] = (),
    ) -> list[Any]:
        """Call a method and return the values of its answer.

        `target` is (service, object path, interface). Raises ErrorReply.
        """
        self._serial += 1
        destination, path, interface = target
        fields = {
            messages.PATH: ("o", path),
            messages.INTERFACE: ("s", interface),
            messages.MEMBER: ("s", member),
            messages.DESTINATION: ("s", destination),
        }
        kind = messages.METHOD_CALL
        self._send(messages.message_bytes(kind, self._serial, fields, signature, values))
        while True:
            message = self._receive_one()
            if message.fields.get(messages.REPLY_SERIAL) == self._serial:
                return _answered(message)

    def signals(self) -> Iterator[list[Any]]:
        """Yield the values of every signal kept since the beginning, and wait for more."""
        while True:
            while self._signals:
                yield self._signals.pop(0)
            self._receive_one()

    def _receive_one(self) -> Message:
        message = self._receive()
        if message.kind == messages.SIGNAL and message.fields.get(messages.MEMBER) == self._signal:
            self._signals.append(message.values())
        return message

    def _connect(self, address: str) -> None:
        self._bound_wait()
        try:
            self._socket.connect(address)
        except TimeoutError as error:
            raise OSError(errno.ETIMEDOUT, "nobody accepts in time") from error

    def _authenticate(self) -> None:
        listener = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        uid = int.from_bytes(listener[4:8], sys.byteorder)
        if uid != os.geteuid():
            raise OSError(errno.EPERM, f"the socket is of user {uid}, not of user {os.geteuid()}")
        self._send(b"\0AUTH EXTERNAL " + str(uid).encode().hex().encode() + b"\r\n")
        while b"\r\n" not in self._received and len(self._received) < LINE_BYTES:
            self._read_more()
        line, _, self._received = self._received.partition(b"\r\n")
        if not line.startswith(b"OK "):
            raise OSError(errno.EACCES, f"authentication is refused: {line.decode('latin1')!a}")
        self._send(b"BEGIN\r\n")

    def _receive(self) -> Message:
        while len(self._received) < messages.HEADER_BYTES:
            self._read_more()
        size = messages.message_size(self._received)
        while len(self._received) < size:
            self._read_more()
        data, self._received = self._received[:size], self._received[size:]
        return messages.parse_message(data)

    def _read_more(self) -> None:
        self._bound_wait()
        try:
            data = self._socket.recv(messages.MESSAGE_BYTES)
        except TimeoutError as error:
            raise OSError(errno.ETIMEDOUT, "no answer in time") from error
        if not data:
            raise OSError(errno.ECONNRESET, "the connection was closed")
        self._received += data

    def _send(self, data: bytes) -> None:
        self._bound_wait()
        try:
            self._socket.sendall(data)
        except TimeoutError as error:
            raise OSError(errno.ETIMEDOUT, "nothing is read in time") from error

    def _bound_wait(self) -> None:
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise OSError(errno.ETIMEDOUT, "no answer in time")
        self._socket.settimeout(left_s)


def _answered(message: Message) -> list[Any]:
    values = message.values()
    if message.kind != messages.ERROR:
        return values
    words = [value for value in values[:1] if isinstance(value, str)]
    raise ErrorReply(str(message.fields.get(messages.ERROR_NAME, "")), *words or [""])
