"""A D-Bus service on a real unix socket, for one conversation, that answers as a test says."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from pytest_rootfs.kernel import dbus_messages as messages

Answer = Callable[[messages.Message, int], bytes]
"""From a call and its serial number to what is sent back; nothing for silence."""


@contextlib.contextmanager
def service(path: Path, answer: Answer, *, welcome: bytes = b"OK 0123\r\n") -> Iterator[list[str]]:
    """Listen at `path`; yield the members that are called, as they come."""
    called: list[str] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):
                _converse(listener.accept()[0], answer, welcome, called)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield called
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _converse(peer: socket.socket, answer: Answer, welcome: bytes, called: list[str]) -> None:
    with peer, peer.makefile("rb") as stream:
        called.append(stream.readline().decode())
        peer.sendall(welcome)
        stream.readline()
        while head := stream.read(messages.HEADER_BYTES):
            size = messages.message_size(head)
            message = messages.parse_message(head + stream.read(size - len(head)))
            called.append(message.fields[messages.MEMBER])
            peer.sendall(answer(message, int.from_bytes(head[8:12], "little")))


def returned(serial: int, signature: str = "", *values: object) -> bytes:
    """Return the answer to the call `serial`."""
    fields = {messages.REPLY_SERIAL: ("u", serial)}
    return messages.message_bytes(messages.METHOD_RETURN, 1, fields, signature, values)


def refused(serial: int, words: str) -> bytes:
    """Return an error as the answer to the call `serial`."""
    name = "org.freedesktop.DBus.Error.Failed"
    fields = {messages.REPLY_SERIAL: ("u", serial), messages.ERROR_NAME: ("s", name)}
    return messages.message_bytes(messages.ERROR, 1, fields, "s", (words,))


def signalled(member: str, signature: str, *values: object) -> bytes:
    """Return a signal."""
    fields = {messages.MEMBER: ("s", member), messages.PATH: ("o", "/org/freedesktop/systemd1")}
    return messages.message_bytes(messages.SIGNAL, 1, fields, signature, values)


def of_systemd(result: str = "done", *, before: bytes = b"") -> Answer:
    """Answer as systemd does, whose job for the scope ends with `result`; `before` comes first."""

    def answer(message: messages.Message, serial: int) -> bytes:
        member = message.fields[messages.MEMBER]
        if member != "StartTransientUnit":
            return returned(serial)
        unit = message.values()[0]
        job = "/org/freedesktop/systemd1/job/7"
        removed = signalled("JobRemoved", "uoss", 7, job, unit, result)
        return before + returned(serial, "o", job) + removed

    return answer
