"""Frames between the processes: small JSON objects with descriptors, over SOCK_SEQPACKET.

One socket pair a conversation: a call carries the far end of a fresh pair as its first
descriptor, and what is sent there is the answer. So calls from several threads never mix, and a
peer that dies is an end of file in every open conversation. Never pickle: what an init sends is
untrusted, so every frame has a bound and every wait may have a deadline.
"""

from __future__ import annotations

import errno
import os
import struct

from pytest_rootfs.kernel import sockets
from pytest_rootfs.runtime import frame_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any  # frames are JSON: their shape is checked by whoever reads a key

    from pytest_rootfs.kernel.sockets import Socket

    Message = dict[str, Any]
else:
    Message = dict

INLINE_BYTES = 64 * 1024
"""Longer frames travel in a memory file: a socket buffer holds about 200 kB."""

OVERFLOW = b"[]"
"""What is sent in place of such a frame; no frame is a list."""

READY = b'{"ready":true}'
"""What init sends when a container has started: as it is, for each new object costs a fork."""

END = {"op": "end"}
"""What pytest sends at its end: a fork of it may still have the socket, whose end is none then."""

FRAME_BYTES = 16 * 1024 * 1024
MAX_FDS = 250
"""SCM_MAX_FD is 253 (net/scm.h); 128 layers and the trees of a container fit."""

_DESCRIPTOR_BYTES = sockets.CMSG_SPACE(MAX_FDS * 4)
_RECEIVING = sockets.MSG_CMSG_CLOEXEC
_RIGHTS = sockets.SOL_SOCKET, sockets.SCM_RIGHTS

# the two ends of a new conversation; the end that has come as a descriptor
pair, end_of = sockets.pair, sockets.end_of


class NoRoom(OSError):
    """Descriptors of a frame are lost, as this process may have no more; the message is here."""

    def __init__(self, message: Message) -> None:
        super().__init__(errno.EMFILE, os.strerror(errno.EMFILE), "receive")
        self.message = message


def send(
    peer: Socket,
    message: Mapping[str, object],
    fds: Sequence[int] = (),
    *,
    encoded: str = "",
) -> None:
    """Send one frame; raises OSError when the peer is gone.

    `encoded` is the message as JSON text, for callers that send the same one again and again.
    """
    data = (encoded or frame_text.encode(message)).encode()
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


def receive(peer: Socket) -> tuple[Message | None, list[int]]:
    """Return the next frame and its descriptors; (None, []) at the end of file.

    Raises OSError when the frame is malformed or longer than 16 MiB, NoRoom when there is none for
    its descriptors, and TimeoutError when the socket has a time-out and it passed.
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
        if flags & sockets.MSG_TRUNC:
            raise OSError("frame is longer than its bound")  # noqa: TRY301  closes what came
        is_cut = bool(flags & sockets.MSG_CTRUNC)
        if data == OVERFLOW and received and not is_cut:
            data = _read_overflow(received.pop())
        message = {} if data == OVERFLOW and is_cut else frame_text.decode(data.decode())
        if not isinstance(message, dict):
            raise OSError("frame is not one object")  # noqa: TRY301  closes what came
    except (OSError, ValueError, RecursionError) as error:
        close_all(received)
        raise OSError(f"malformed frame from a container process: {error}") from None
    if is_cut:  # more than a frame may have, or than this process may (unix(7))
        close_all(received)
        raise NoRoom(message)
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


def send_error(peer: Socket, error: OSError, step: str) -> None:
    """Answer with a failed step, unless whoever asked has gone: that is no reason to end."""
    try:
        send(peer, error_frame(error, step))
    except OSError:
        pass


def close_all(fds: Sequence[int]) -> None:
    """Close descriptors that nobody wants."""
    for fd in fds:
        os.close(fd)


def _send(peer: Socket, data: bytes, fds: Sequence[int]) -> None:
    if fds:
        rights = struct.pack(f"{len(fds)}i", *fds)
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
