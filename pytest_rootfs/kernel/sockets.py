"""Unix sockets that keep the borders of messages, without the module `socket`.

That brings enumerations and selectors, which with all that they import are pages of every init: the
nursery copies their entries at each birth, and the kernel frees them at each death.
"""

from __future__ import annotations

import _socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing_extensions import Self

SOL_SOCKET, SCM_RIGHTS = _socket.SOL_SOCKET, _socket.SCM_RIGHTS
MSG_CMSG_CLOEXEC = _socket.MSG_CMSG_CLOEXEC
MSG_TRUNC, MSG_CTRUNC = _socket.MSG_TRUNC, _socket.MSG_CTRUNC
AF_INET, AF_INET6 = _socket.AF_INET, _socket.AF_INET6
inet_ntop = _socket.inet_ntop
CMSG_SPACE = _socket.CMSG_SPACE
_KIND = _socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0


class Socket(_socket.socket):
    """A socket as `socket.socket` is one, for what frames need; closes at the end of `with`."""

    __slots__ = ()

    def __enter__(self) -> Self:
        """Return the socket itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()


def pair() -> tuple[Socket, Socket]:
    """Return two connected sockets of the kind SOCK_SEQPACKET; see unix(7)."""
    first, second = _socket.socketpair(*_KIND)
    return end_of(first.detach()), end_of(second.detach())


def end_of(fd: int) -> Socket:
    """Return the socket that a descriptor is, without asking which kind it is."""
    return Socket(*_KIND, fd)
