"""Messages to and from bytes, and conversations with a service on a real socket."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from buses import refused, returned, service, signalled
from features import needs
from hypothesis import given
from hypothesis import strategies as st

from pytest_rootfs.kernel import dbus
from pytest_rootfs.kernel import dbus_messages as messages

TARGET = ("org.example", "/org/example", "org.example.Thing")
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
NUMBER = st.integers(0, (1 << 32) - 1)
BASIC = {"y": st.integers(0, 255), "b": st.booleans(), "u": NUMBER, "s": TEXT, "o": TEXT}


@st.composite
def typed(draw: st.DrawFn, depth: int = 3) -> tuple[str, Any]:
    """Draw a complete type and a value of it."""
    kind = draw(st.sampled_from([*BASIC, *("va(" if depth else "")]))
    if kind in BASIC:
        return kind, draw(BASIC[kind])
    if kind == "v":
        return "v", draw(typed(depth - 1))
    members = draw(st.lists(typed(depth - 1), min_size=1, max_size=4))
    if kind == "(":
        inner = "".join(signature for signature, _ in members)
        return f"({inner})", tuple(value for _, value in members)
    signature, value = members[0]
    return f"a{signature}", [value] * draw(st.integers(0, 3))


def connect(path: Path, timeout_s: float = 5, *, signal: str = "Gone") -> dbus.Connection:
    return dbus.Connection(str(path), timeout_s, signal=signal)


@given(st.lists(typed(), max_size=4))
def test_message_is_read_as_written(parts: list[tuple[str, Any]]) -> None:
    signature = "".join(part[0] for part in parts)
    values = [part[1] for part in parts]
    fields = {messages.PATH: ("o", "/a"), messages.MEMBER: ("s", "Get")}

    data = messages.message_bytes(messages.METHOD_CALL, 3, fields, signature, tuple(values))
    message = messages.parse_message(data)

    assert messages.message_size(data) == len(data)
    assert (message.kind, message.fields[messages.MEMBER]) == (messages.METHOD_CALL, "Get")
    assert message.values() == values


def errno_of_parsing(data: bytes) -> int:
    try:
        messages.message_size(data)
        messages.parse_message(data).values()
    except OSError as error:
        return error.errno or -1
    return 0


@given(st.sampled_from([b"", b"l\1\0\1"]), st.binary(min_size=16, max_size=200))
def test_garbage_is_refused_cleanly(head: bytes, rest: bytes) -> None:
    assert errno_of_parsing(head + rest) in (0, errno.EBADMSG, errno.EMSGSIZE)


@given(st.data())
def test_every_broken_byte_is_survived(data: st.DataObject) -> None:
    whole = bytearray(returned(1, "ssa(sv)", "unit", "fail", [("PIDs", ("au", [0]))]))
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))

    assert errno_of_parsing(bytes(whole)) in (0, errno.EBADMSG, errno.EMSGSIZE)


@pytest.mark.parametrize("signature", ["a", "(", ")", "()", "(s", "a{sv}", "h", "a" * 50, "s\0"])
def test_unknown_signature_is_refused(signature: str) -> None:
    with pytest.raises(OSError, match="not one that is known here") as caught:
        messages.complete_types(signature)

    assert caught.value.errno == errno.EBADMSG


def test_other_byte_order_is_read() -> None:
    head = b"B\2\0\1" + b"\0\0\0\4" + b"\0\0\0\1" + b"\0\0\0\x0f"
    fields = b"\5\1u\0\0\0\0\7" + b"\10\1g\0\1u\0\0"

    message = messages.parse_message(head + fields + b"\0\0\1\0")

    assert (message.fields[messages.REPLY_SERIAL], message.values()) == (7, [256])


def test_call_gets_its_answer(tmp_path: Path) -> None:
    def answer(message: messages.Message, serial: int) -> bytes:
        return returned(serial + 1) + returned(serial, "s", "hello " + message.values()[0])

    with service(tmp_path / "bus", answer) as called, connect(tmp_path / "bus") as connection:
        values = connection.call(TARGET, "Greet", "s", ("you",))

    uid = str(os.geteuid()).encode().hex()
    assert values == ["hello you"]
    assert called == [f"\0AUTH EXTERNAL {uid}\r\n", "Greet"]


def test_signal_before_the_answer_is_kept(tmp_path: Path) -> None:
    def answer(_message: messages.Message, serial: int) -> bytes:
        other = signalled("Noise", "s", "not parsed").replace(b"\1g\0\1s\0", b"\1g\0\1h\0")
        return other + signalled("Gone", "u", 5) + returned(serial) + signalled("Gone", "u", 6)

    with service(tmp_path / "bus", answer), connect(tmp_path / "bus") as connection:
        connection.call(TARGET, "Stop")
        signals = connection.signals()
        seen = [next(signals), next(signals)]

    assert seen == [[5], [6]]


def test_error_is_told_in_its_words(tmp_path: Path) -> None:
    with (
        service(tmp_path / "bus", lambda _message, serial: refused(serial, "too busy")),
        connect(tmp_path / "bus") as connection,
        pytest.raises(dbus.ErrorReply, match="too busy") as caught,
    ):
        connection.call(TARGET, "Stop")

    assert caught.value.name == "org.freedesktop.DBus.Error.Failed"
    assert caught.value.errno == errno.EREMOTEIO


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        (b"", errno.ETIMEDOUT),
        (b"l\2\0\1", errno.ETIMEDOUT),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", errno.EBADMSG),
        (b"l\2\0\1" + b"\xff" * 12, errno.EMSGSIZE),
        (returned(1, "s", "x")[:-1] + b"x", errno.EBADMSG),
    ],
)
def test_bad_answer_is_refused(tmp_path: Path, answer: bytes, number: int) -> None:
    with (
        service(tmp_path / "bus", lambda _message, _serial: answer),
        connect(tmp_path / "bus", 0.1) as connection,
        pytest.raises(OSError) as caught,  # noqa: PT011  the number is what it is told by
    ):
        connection.call(TARGET, "Stop")

    assert caught.value.errno == number


@pytest.mark.parametrize(
    ("welcome", "number"),
    [
        (b"REJECTED EXTERNAL\r\n", errno.EACCES),
        (b"x" * 2000, errno.EACCES),
        (b"", errno.ETIMEDOUT),
    ],
)
def test_refused_authentication_is_told(tmp_path: Path, welcome: bytes, number: int) -> None:
    with (
        service(tmp_path / "bus", lambda _message, _serial: b"", welcome=welcome),
        pytest.raises(OSError) as caught,  # noqa: PT011  the number is what it is told by
    ):
        connect(tmp_path / "bus", 0.1)

    assert caught.value.errno == number


def test_file_without_listener_is_no_bus(tmp_path: Path) -> None:
    (tmp_path / "bus").touch()

    with pytest.raises(ConnectionRefusedError):
        connect(tmp_path / "bus")


def test_hung_listener_is_given_up(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "bus"))
        listener.listen()

        with pytest.raises(OSError, match="no answer in time") as caught:
            connect(tmp_path / "bus", 0.05)

    assert caught.value.errno == errno.ETIMEDOUT


@needs("root")
def test_socket_of_another_user_is_refused(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "bus"))
        os.seteuid(65534)  # listen(2) records who we are: SO_PEERCRED, unix(7)
        try:
            listener.listen()
        finally:
            os.seteuid(0)

        with pytest.raises(OSError, match="is of user 65534, not of user 0") as caught:
            connect(tmp_path / "bus")

    assert caught.value.errno == errno.EPERM


@needs("dbus-daemon")
def test_real_bus_answers(tmp_path: Path) -> None:
    path = tmp_path / "bus"
    program = shutil.which("dbus-daemon") or ""
    argv = [program, "--session", "--nofork", "--nopidfile", f"--address=unix:path={path}"]
    bus_target = (dbus.BUS, dbus.BUS_PATH, dbus.BUS)
    argv.append("--print-address")
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as daemon:
        assert daemon.stdout is not None
        daemon.stdout.readline()
        with connect(path) as connection:
            (name,) = connection.call(bus_target, "Hello")
            (is_there,) = connection.call(bus_target, "NameHasOwner", "s", (name,))
            with pytest.raises(dbus.ErrorReply) as caught:
                connection.call(("org.example", "/", "org.example"), "Stop")
        daemon.terminate()

    assert (name[:1], is_there) == (":", True)
    assert caught.value.name.startswith("org.freedesktop.DBus.Error.")
