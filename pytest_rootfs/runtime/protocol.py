"""Frames between the processes: small JSON objects with descriptors, over SOCK_SEQPACKET.

One socket pair a conversation: a call carries the far end of a fresh pair as its first
descriptor, and what is sent there is the answer. So calls from several threads never mix, and a
peer that dies is an end of file in every open conversation. Never pickle: what an init sends is
untrusted, so every frame has a bound and every wait may have a deadline.
"""

from __future__ import annotations

import array
import errno
import json
import os
import socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any  # frames are JSON: their shape is checked by whoever reads a key

    Message = dict[str, Any]
else:
    Message = dict

INLINE_BYTES = 64 * 1024
"""Longer frames travel in a memory file: a socket buffer holds about 200 kB."""

OVERFLOW = b"[]"
"""What is sent in place of such a frame; no frame is a list."""

READY = b'{"ready":true}'
"""What init sends when a container has started: as it is, for each new object costs a fork."""

FRAME_BYTES = 16 * 1024 * 1024
MAX_FDS = 250
"""SCM_MAX_FD is 253 (net/scm.h); 128 layers and the trees of a container fit."""

_DESCRIPTOR_BYTES = socket.CMSG_SPACE(MAX_FDS * 4)
# numbers, as the flags of an enumeration are slow to combine and to pass on
_RECEIVING = int(socket.MSG_CMSG_CLOEXEC)
_CUT = int(socket.MSG_TRUNC | socket.MSG_CTRUNC)
_RIGHTS = int(socket.SOL_SOCKET), int(socket.SCM_RIGHTS)
_KIND = int(socket.AF_UNIX), int(socket.SOCK_SEQPACKET), 0
_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_decode = json.JSONDecoder().raw_decode


def pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a new conversation."""
    return socket.socketpair(*_KIND)


def end_of(fd: int) -> socket.socket:
    """Return the end of a conversation that has come as a descriptor, without asking what it is."""
    return socket.socket(*_KIND, fd)


def send(
    peer: socket.socket,
    message: Mapping[str, object],
    fds: Sequence[int] = (),
    *,
    encoded: str = "",
) -> None:
    """Send one frame; raises OSError when the peer is gone.

    `encoded` is the message as JSON text, for callers that send the same one again and again.
    """
    data = (encoded or _encode(message)).encode()
    if len(data) > FRAME_BYTES:
        raise OSError(errno.E2BIG, f"a frame ends at {FRAME_BYTES} bytes", f"{len(data)} bytes")
    if len(data) <= INLINE_BYTES:
        _send(peer, data, fds)
        return
    overflow_fd = os.memfd_create("frame")
    try:
        _write_all(overflow_fd, data)
        _send(peer, OVERFLOW, [*fds, overflow_fd])
    finally:
        os.close(overflow_fd)


def receive(peer: socket.socket) -> tuple[Message | None, list[int]]:
    """Return the next frame and its descriptors; (None, []) at the end of file.

    Raises OSError when the frame is malformed or longer than 16 MiB, TimeoutError when the
    socket has a time-out and it passed.
    """
    data, ancillary, flags, _ = peer.recvmsg(INLINE_BYTES, _DESCRIPTOR_BYTES, _RECEIVING)
    received: list[int] = []
    for level, kind, payload in ancillary:
        if (level, kind) == _RIGHTS:
            received += memoryview(payload[: len(payload) - len(payload) % 4]).cast("i")
    if not data:
        close_all(received)
        return None, []
    try:
        if flags & _CUT:
            raise OSError("frame is longer than its bound")  # noqa: TRY301  closes what came
        if data == OVERFLOW and received:
            data = _read_overflow(received.pop())
        text = data.decode()
        message, end = _decode(text)
        if not isinstance(message, dict) or end != len(text):
            raise OSError("frame is not one object")  # noqa: TRY301  closes what came
    except (OSError, ValueError, RecursionError) as error:
        close_all(received)
        raise OSError(f"malformed frame from a container process: {error}") from None
    return message, received


def error_frame(error: OSError, step: str) -> Message:
    """Describe a failed step for the other side: its name, its argument and its errno."""
    return {
        "error": {
            "step": step,
            "errno": error.errno or 0,
            "text": error.strerror or str(error),
            "subject": "" if error.filename is None else str(error.filename),
        }
    }


def send_error(peer: socket.socket, error: OSError, step: str) -> None:
    """Answer with a failed step, unless whoever asked has gone: that is no reason to end."""
    try:
        send(peer, error_frame(error, step))
    except OSError:
        pass


def close_all(fds: Sequence[int]) -> None:
    """Close descriptors that nobody wants."""
    for fd in fds:
        os.close(fd)


def _send(peer: socket.socket, data: bytes, fds: Sequence[int]) -> None:
    if fds:
        rights = array.array("i", fds)
        peer.sendmsg([data], [(*_RIGHTS, rights)])
    else:
        peer.send(data)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _read_overflow(fd: int) -> bytes:
    try:
        size = os.fstat(fd).st_size
        if size > FRAME_BYTES:
            raise OSError(f"{size} bytes")
        return os.pread(fd, size, 0)
    finally:
        os.close(fd)
