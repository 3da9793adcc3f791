"""A new init: what it does from its birth until it answers as the agent of its container.

It is born with new namespaces and a socket, and does what needs no more. Then the spawner tells it
which container to be. One that is born early, as a spare, goes through the motions meanwhile.
"""

from __future__ import annotations

import os
import select

from pytest_rootfs.kernel import prepared, syscalls
from pytest_rootfs.kernel.cgroups_session import Entrances
from pytest_rootfs.runtime import commands, orders, protocol, steps
from pytest_rootfs.runtime.init import Init

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_rootfs.kernel.sockets import Socket
    from pytest_rootfs.runtime.protocol import Message
    from pytest_rootfs.runtime.steps import Prepared

    Plan = dict[str, list[Prepared]]
    """The prepared steps of a plan: `early`, `init` and `late`."""

REHEARSING_AFTER_MS = 3
"""Who is asked sooner has no time to rehearse: it would take as long as it saves."""


class Start:
    """What an init is born with, and what it is told."""

    __slots__ = (
        "control",
        "group",
        "is_ahead",
        "is_told",
        "mapped_fd",
        "overlay_fd",
        "plan",
        "plans",
        "reply",
        "staged",
        "step",
        "tree_fds",
        "trees",
    )

    def __init__(self, control: Socket, mapped_fd: int, plans: Mapping[str, Plan]) -> None:
        """Begin with the spawner's socket, and the plans that this process knows."""
        self.control = control
        self.mapped_fd = mapped_fd
        """Where it can be read that the id maps are written."""
        self.plans = plans
        self.is_told = False
        """Whether what follows is there."""
        self.reply: Socket
        """Whom it tells that the container has started."""
        self.step = "start"
        self.staged: dict[str, int] = {}
        """File systems that wait for the root that they belong to, by their folder there."""
        self.plan: Plan = {}
        self.is_ahead = False
        self.overlay_fd = -1
        self.group = Entrances()
        self.tree_fds: Sequence[int] = ()
        self.trees: Sequence[tuple[int, str]] = ()

    @property
    def has_orders(self) -> bool:
        """Whether the spawner has said what to be, though nobody has read it yet."""
        said = select.poll()
        said.register(self.control, select.POLLIN)
        return bool(said.poll(0))

    def await_orders(self) -> None:
        """Wait until the spawner says what to be."""
        told = orders.receive(self.control)
        if told is None:
            os._exit(1)  # the spawner was killed, or wants no container
        self.reply = protocol.end_of(told.reply_fd)
        self.is_told = True
        self.is_ahead = told.is_ahead
        self.overlay_fd = told.overlay_fd
        self.tree_fds, self.trees = told.tree_fds, told.trees
        self.plan = steps.prepare_all(told.plan) if told.plan else self.plans[told.key]

    def await_entrances(self) -> None:
        """Wait for the ways into the control groups of the container."""
        group = orders.receive_entrances(self.control)
        if group is None:
            os._exit(1)  # as above; or they cannot be made, and the spawner says so
        self.group = group

    def carry_out(self, part: Sequence[Prepared]) -> None:
        """Carry out steps; `step` names the one that raises OSError."""
        for step, function, arguments in part:
            self.step = step
            function(self, *arguments)

    def tell_ready(self) -> None:
        """Close what has been attached, and tell whoever waits that the container has started."""
        trees = (fd for fd, _ in self.trees)
        protocol.close_all([self.overlay_fd, *self.staged.values(), *trees, *self.tree_fds])
        self.reply.send(protocol.READY)
        self.reply.close()

    def report(self, message: Message) -> None:
        """Tell whoever waits, or will, why there is no container."""
        try:
            if not self.is_told:
                self.await_orders()
            protocol.send(self.reply, message)
        except OSError:
            pass  # it had reported before, or pytest is gone: the exit is then the message


def main(start: Start, early: Sequence[Prepared], *, is_spare: bool) -> None:
    """Become a container; never returns."""
    try:
        start.carry_out(early)
        if is_spare:
            rehearse()
        start.await_orders()
        start.carry_out(start.plan["init"])
        commands.end_with_spawner()
        start.tell_ready()
        # pytest goes on from here; what no command may run without comes before the first request
        start.carry_out(start.plan["late"])
        agent = Init(start.control, start.group)
        if start.is_ahead and not agent.is_asked_within(REHEARSING_AFTER_MS):
            # again, now that the container's own files can be remembered
            try:
                agent.rehearse()
            except OSError:
                pass  # what is wrong here, the first command will say
        agent.serve()
    except OSError as error:
        # before anybody has asked: whether it still fails then, the next one will find out
        if start.is_told or start.has_orders or not is_spare:
            start.report(protocol.error_frame(error, start.step))
    except BaseException as error:  # noqa: BLE001  a defect of ours: pytest must hear of it
        frame = {"step": start.step, "errno": 0, "text": repr(error), "subject": ""}
        start.report({"error": frame})
    finally:
        os._exit(1)


def rehearse() -> None:
    """Go through the motions of a start and of a command.

    What the interpreter notes on the way, in code that becomes fast, in look-ups that are
    remembered, need not be noted again by a process that is forked afterwards; and the pages that
    are written to, which after a fork are copied first, are one's own when the time has come.
    """
    try:
        _rehearse_start()
    except Exception:  # noqa: BLE001  what is wrong here, the first start or command will say
        pass
    commands.forget()


def _rehearse_start() -> None:
    call = [prepared.prctl(syscalls.PR_CAPBSET_READ, 0)]
    plan = {"init": [("rehearse", steps.make, (call,))], "late": []}
    own, control = protocol.pair()
    waiting, reply = protocol.pair()
    with own, waiting, control, reply:
        start = Start(control, -1, {"": plan})
        # any descriptor does for the overlay's
        orders.send(own, orders.Request("", plan, reply), own.fileno(), (), is_known=True)
        orders.send_entrances(own, Entrances())
        start.await_orders()
        start.await_entrances()
        start.carry_out(plan["init"])
        start.tell_ready()
        Init(control, start.group).rehearse()
