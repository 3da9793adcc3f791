"""What the spawner tells a new init: which container to be, and all that it takes to become it."""

from __future__ import annotations

from pytest_rootfs.kernel.cgroups_session import Entrances
from pytest_rootfs.runtime import protocol

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_rootfs.kernel.sockets import Socket
    from pytest_rootfs.runtime.protocol import Message

TREES_A_FRAME = 200


class Request:
    """A container of a plan, as pytest asks for it, or as the spawner expects it to."""

    __slots__ = ("is_ahead", "key", "plan", "reply", "tree_fds")

    def __init__(
        self,
        key: str,
        plan: Message,
        reply: Socket,
        tree_fds: Sequence[int] = (),
        *,
        is_ahead: bool = False,
    ) -> None:
        self.key = key
        self.plan = plan
        self.reply = reply
        """Whom init tells that the container has started."""
        self.tree_fds = tree_fds
        """What people mount, in the order of the plan."""
        self.is_ahead = is_ahead
        """Whether nobody waits for the container yet."""


class Orders:
    """A request as init gets it: the plan under its key, or whole, and the root file system."""

    __slots__ = ("is_ahead", "key", "overlay_fd", "plan", "reply_fd", "tree_fds", "trees")

    def __init__(self, message: Message, fds: list[int]) -> None:
        self.key: str = message["key"]
        self.plan: Message | None = message.get("plan")
        self.is_ahead: bool = message["is_ahead"]
        self.reply_fd, self.overlay_fd = fds
        self.tree_fds: list[int] = []
        self.trees: list[tuple[int, str]] = []
        """What is attached below the overlay: descriptors and paths."""


def send(
    peer: Socket,
    request: Request,
    overlay_fd: int,
    trees: Sequence[tuple[int, str]],
    *,
    is_known: bool,
) -> None:
    """Tell an init what to be; `is_known` says that it was born with the plan."""
    message = {
        "key": request.key,
        "is_ahead": request.is_ahead,
        "tree_fds": len(request.tree_fds),
        "trees": len(trees),
    }
    if not is_known:
        message["plan"] = parts_of(request.plan)
    protocol.send(peer, message, [request.reply.fileno(), overlay_fd])
    if request.tree_fds:
        protocol.send(peer, {}, request.tree_fds)
    for first in range(0, len(trees), TREES_A_FRAME):
        part = trees[first : first + TREES_A_FRAME]
        protocol.send(peer, {"paths": [path for _, path in part]}, [fd for fd, _ in part])


def receive(peer: Socket) -> Orders | None:
    """Return what `send` has sent; None when whoever should have sent it is gone."""
    message, fds = protocol.receive(peer)
    if message is None:
        return None
    orders = Orders(message, fds)
    if message["tree_fds"]:
        part, orders.tree_fds = protocol.receive(peer)
        if part is None:
            return None
    while len(orders.trees) < message["trees"]:
        part, fds = protocol.receive(peer)
        if part is None:
            return None
        orders.trees += zip(fds, part["paths"], strict=True)
    return orders


def send_entrances(peer: Socket, entrances: Entrances) -> None:
    """Give an init the ways into its control groups, which are made while it mounts."""
    counts, fds = entrances.packed()
    protocol.send(peer, {"entrances": counts}, fds)


def receive_entrances(peer: Socket) -> Entrances | None:
    """Return what `send_entrances` has sent; None when whoever should have is gone."""
    message, fds = protocol.receive(peer)
    return None if message is None else Entrances.unpacked(message["entrances"], fds)


def parts_of(plan: Message) -> Message:
    """Return the parts of a plan that an init carries out."""
    return {part: plan[part] for part in ("early", "init", "late")}
