"""Turn values into D-Bus messages, and messages into values: the types that systemd needs.

Source: the D-Bus specification, "Type System" and "Message Protocol". Refuses, with EBADMSG, what
is malformed, and messages above 64 KiB. Reads and writes nothing but bytes.
"""

from __future__ import annotations

import errno
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any  # a value of whichever type its signature says

NESTING = 8
NO_AUTO_START = 2
"""The flag that keeps a bus from starting a service, for up to 25 s, which does not run."""
METHOD_CALL, METHOD_RETURN, ERROR, SIGNAL = 1, 2, 3, 4
PATH, INTERFACE, MEMBER, ERROR_NAME, REPLY_SERIAL, DESTINATION, _SENDER, SIGNATURE = range(1, 9)
HEADER_BYTES = 16
MESSAGE_BYTES = 65536
_ALIGNMENT = {"y": 1, "g": 1, "v": 1, "b": 4, "u": 4, "s": 4, "o": 4, "a": 4, "(": 8}


class Message:
    """One message: its type, its header fields by number, and its body, not yet looked into.

    A service on a socket of its own sends every signal, of types that nobody here needs.
    """

    __slots__ = ("_body", "fields", "kind")

    def __init__(self, kind: int, fields: dict[int, Any], body: Reader) -> None:
        self.kind = kind
        self.fields = fields
        self._body = body

    def values(self) -> list[Any]:
        """Parse the body, once."""
        signature = self.fields.get(SIGNATURE, "")
        values = self._body.take(signature) if isinstance(signature, str) else []
        if self._body.at != len(self._body.data):
            raise _malformed("its body is longer than its signature")
        return values


def message_bytes(
    kind: int,
    serial: int,
    fields: dict[int, tuple[str, Any]],
    signature: str = "",
    values: tuple[Any, ...] = (),
) -> bytes:
    """Return a message as it is sent, in this machine's byte order."""
    body = Writer()
    body.put(signature, values)
    if signature:
        fields = {**fields, SIGNATURE: ("g", signature)}
    order = ord("l" if sys.byteorder == "little" else "B")
    head = Writer()
    head.put(
        "yyyyuua(yv)", (order, kind, NO_AUTO_START, 1, len(body.data), serial, list(fields.items()))
    )
    head.pad(8)
    return bytes(head.data + body.data)


def message_size(data: bytes) -> int:
    """Return the length of the message that begins here; `data` holds at least 16 bytes."""
    order = _order_of(data)
    body_bytes = int.from_bytes(data[4:8], order)
    fields_bytes = int.from_bytes(data[12:16], order)
    size = HEADER_BYTES + fields_bytes + -fields_bytes % 8 + body_bytes
    if size > MESSAGE_BYTES:
        raise OSError(
            errno.EMSGSIZE, f"a message of {size} bytes; at most {MESSAGE_BYTES} are read"
        )
    return size


def parse_message(data: bytes) -> Message:
    """Return the message in `data`, which holds it and nothing else."""
    reader = Reader(data, _order_of(data))
    _, kind, _, _, body_bytes, _, pairs = reader.take("yyyyuua(yv)")
    reader.align(8)
    fields = {number: value for number, (_, value) in pairs}
    if len(data) - reader.at != body_bytes:
        raise _malformed("its length is not what its header says")
    return Message(kind, fields, Reader(data[reader.at :], reader.order))


class Writer:
    """Values by their signature, to bytes; a variant is given as (signature, value)."""

    __slots__ = ("data",)

    def __init__(self) -> None:
        self.data = bytearray()

    def pad(self, alignment: int) -> None:
        """Write zero bytes up to the next multiple."""
        self.data += bytes(-len(self.data) % alignment)

    def put(self, signature: str, values: tuple[Any, ...]) -> None:
        """Write one value for each complete type of the signature."""
        for kind, value in zip(complete_types(signature), values, strict=True):
            self.pad(_ALIGNMENT[kind[0]])
            self._put_one(kind, value)

    def _put_one(self, kind: str, value: Any) -> None:
        if kind == "y":
            self.data.append(value)
        elif kind in "bu":
            self._put_number(value)
        elif kind in "so":
            content = value.encode()
            self._put_number(len(content))
            self.data += content + b"\0"
        elif kind == "g":
            self.data += bytes([len(value)]) + value.encode() + b"\0"
        elif kind == "v":
            self.put("g", value[:1])
            self.put(value[0], value[1:])
        elif kind[0] == "(":
            self.put(kind[1:-1], value)
        else:
            self._put_array(kind[1:], value)

    def _put_array(self, kind: str, values: list[Any]) -> None:
        length_at = len(self.data)
        self._put_number(0)
        self.pad(_ALIGNMENT[kind[0]])
        start = len(self.data)
        for value in values:
            self.put(kind, (value,))
        length = len(self.data) - start
        self.data[length_at : length_at + 4] = length.to_bytes(4, sys.byteorder)

    def _put_number(self, value: int) -> None:
        self.data += int(value).to_bytes(4, sys.byteorder)


class Reader:
    """Bytes to values by their signature; nothing is read past the end."""

    __slots__ = ("at", "data", "order")

    def __init__(self, data: bytes, order: Any) -> None:
        self.data = data
        self.order = order
        self.at = 0

    def align(self, alignment: int) -> None:
        """Skip the padding, which must be zero, as the specification wants it."""
        if any(self._raw(-self.at % alignment)):
            raise _malformed("its padding is not zero")

    def take(self, signature: str, *, depth: int = 0) -> list[Any]:
        """Return one value for each complete type of the signature."""
        if depth > NESTING:
            raise _malformed("it is nested too deeply")
        values = []
        for kind in complete_types(signature):
            self.align(_ALIGNMENT[kind[0]])
            values.append(self._take_one(kind, depth))
        return values

    def _take_one(self, kind: str, depth: int) -> Any:
        if kind == "y":
            return self._raw(1)[0]
        if kind in "bu":
            number = self._number()
            return number if kind == "u" else bool(number)
        if kind in "so":
            return self._text(self._number())
        if kind == "g":
            return self._text(self._raw(1)[0])
        if kind == "v":
            (inner,) = self.take("g")
            if len(complete_types(inner)) != 1:
                raise _malformed("a variant holds not exactly one value")
            return (inner, *self.take(inner, depth=depth + 1))
        if kind[0] == "(":
            return tuple(self.take(kind[1:-1], depth=depth + 1))
        return self._array(kind[1:], depth)

    def _array(self, kind: str, depth: int) -> list[Any]:
        length = self._number()
        self.align(_ALIGNMENT[kind[0]])
        end = self.at + length
        if end > len(self.data):
            raise _malformed("an array ends after it")
        values = []
        while self.at < end:
            values += self.take(kind, depth=depth + 1)
        if self.at != end:
            raise _malformed("an array's last value ends after the array")
        return values

    def _text(self, length: int) -> str:
        content = self._raw(length + 1)
        if content.find(0) != length:
            raise _malformed("a string does not end where it should")
        try:
            return content[:-1].decode()
        except UnicodeDecodeError:
            raise _malformed("a string is not UTF-8") from None

    def _number(self) -> int:
        return int.from_bytes(self._raw(4), self.order)

    def _raw(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self.data):
            raise _malformed("a value ends after it")
        content = self.data[self.at : end]
        self.at = end
        return content


def complete_types(signature: str) -> list[str]:
    """Split a signature into its complete types: `sa(sv)` is `s` and `a(sv)`."""
    types = []
    at = 0
    while at < len(signature):
        end = _type_end(signature, at, 0)
        types.append(signature[at:end])
        at = end
    return types


def _type_end(signature: str, at: int, depth: int) -> int:
    kind = signature[at : at + 1]
    if kind not in _ALIGNMENT or depth > NESTING:
        raise _malformed(f"the signature {signature!a} is not one that is known here")
    if kind == "a":
        return _type_end(signature, at + 1, depth + 1)
    at += 1
    if kind == "(":
        at = _type_end(signature, at, depth + 1)  # a struct has at least one
        while signature[at : at + 1] != ")":
            at = _type_end(signature, at, depth + 1)
        at += 1
    return at


def _order_of(data: bytes) -> Any:
    """Return the byte order that a message's first byte names, for `int.from_bytes`."""
    orders = {ord("l"): "little", ord("B"): "big"}
    if data[0] not in orders or data[3] != 1:
        raise _malformed("it does not begin as one of protocol version 1")
    return orders[data[0]]


def _malformed(what: str) -> OSError:
    return OSError(errno.EBADMSG, f"a malformed D-Bus message: {what}")
