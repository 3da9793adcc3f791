"""Make containers for the spawner: on demand, and the next ones ahead; make one begin anew.

While a test runs, the container that will probably be asked for next is made and waits, ready.
Asked for, it is handed over at once; what is not expected any more is killed. There is one, or two
where tests use several. Where none is foreseen there is a spare: an init that can become any.
"""

from __future__ import annotations

import errno
import os
import time

from pytest_rootfs.runtime import protocol
from pytest_rootfs.runtime.ahead import Ahead
from pytest_rootfs.runtime.forecast import Forecast
from pytest_rootfs.runtime.orders import Request
from pytest_rootfs.runtime.remains import Remains
from pytest_rootfs.runtime.spares import Spare, require_descriptors
from pytest_rootfs.runtime.spawned import Container

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from pytest_rootfs.kernel.cgroups import Group, Parent
    from pytest_rootfs.runtime.nursery import Birth, Nursery
    from pytest_rootfs.runtime.protocol import Message
    from pytest_rootfs.runtime.root_trees import Root, RootTrees
    from pytest_rootfs.runtime.rw_folders import RwLayer

    Made = TypeVar("Made")

AHEAD_MAX = 2
LOST = (errno.EPIPE, errno.ECONNRESET, errno.ECHILD)
"""Somebody has killed the new init, or the nursery: another one will do."""

SCARCE = (errno.ENOSPC, errno.EUSERS, errno.EAGAIN, errno.ENOMEM)
"""There are too many namespaces or processes (clone(2)), perhaps by those that nobody needs."""

PAUSES_S = (0.02, 0.2, 2.0)
"""The kernel counts a network namespace until it has undone it, which it does in its own time."""


class MountRefused(Exception):
    """A container made ahead cannot have the mounts of the call: they are used up by trying."""

    def __init__(self, answer: Message) -> None:
        super().__init__()
        self.answer = answer


class Births:
    """Makes the containers of one session."""

    def __init__(self, trees: RootTrees, parent: Parent, nursery: Nursery) -> None:
        self._trees = trees
        self._parent = parent
        self._nursery = nursery
        self.remains = Remains()
        self._forecast = Forecast()
        self._ahead: list[Ahead] = []
        self._depth = 1
        self._spare = Spare(trees, nursery, self.remains)
        self._last: tuple[str, Message] | None = None
        """The plan used last, and its key: that of the spare."""

    def create(self, request: Request, *, is_beside_others: bool) -> tuple[Container, bool]:
        """Return a container, and whether it is ready; else its init says so, to who asks.

        `is_beside_others` says that there are others, so that the next ones are asked for at once.
        Raises MountRefused, or OSError.
        """
        container = self._take_ahead(request)
        is_ready = container is not None
        if container is None:
            container = self._at_all_costs(lambda: self._make(request))
        if is_beside_others:
            self._depth = AHEAD_MAX
        # what stands on a snapshot is another one each time
        self._forecast.learn("" if request.plan["is_singular"] else request.key)
        self._last = request.key, request.plan
        return container, is_ready

    def restart(self, container: Container, request: Request, *, is_emptied: bool) -> None:
        """Kill every process and begin anew, with the same cgroups and the same or a new rw layer.

        Init tells who asks when it is ready; `settle` is then to follow. After an error the
        container is dead, and keeps both.
        """
        container.end()
        container.init.close()  # its mounts, too: a rw layer is for one overlay at a time
        container.settle(is_ready=True)
        container.group.freeze(frozen=False)
        kept = container.rw_layer
        wanted = None if is_emptied else kept
        birth, root = self._at_all_costs(lambda: self._begin(request, wanted))
        self._admit(birth, root, container.group, kept)
        container.begin(birth)
        if root.rw_layer is not kept:
            container.rw_layer, container.former_layer = root.rw_layer, kept

    @property
    def limits_disk(self) -> bool:
        """Whether the size of a rw layer can be limited."""
        return self._trees.limits_disk

    def next_key(self) -> str | None:
        """Return the plan of the container to be made ahead, None if there is none to be made.

        Kills those that are not expected any more.
        """
        wanted = self._forecast.foresee(self._depth)
        for ahead in list(self._ahead):
            if ahead.key in wanted:
                wanted.remove(ahead.key)
            else:
                self._ahead.remove(ahead)
                self._discard(ahead)
                while self.remains.do_one():  # so that there are never more than are expected
                    pass
        return wanted[0] if wanted else None

    def make_ahead(self, key: str, plan: Message) -> bool:
        """Make the next container; what fails now is reported when somebody asks for it."""
        try:
            own, far = protocol.pair()
        except OSError:
            return False
        with far:
            try:
                require_descriptors()
                container = self._make(Request(key, plan, far, is_ahead=True))
            except OSError:
                own.close()
                self._forecast.forget(key)
                return False
        self._ahead.append(Ahead(key, plan, container, own))
        return True

    def make_spare(self) -> None:
        """Have a spare for what nobody foresees."""
        if not self._ahead and self._last is not None:
            self._spare.make(*self._last)

    def end(self) -> None:
        """Kill what nobody has asked for, and give up the containers that are dead."""
        self._make_room()
        self._nursery.end()

    def _take_ahead(self, request: Request) -> Container | None:
        for ahead in self._ahead:
            if ahead.key == request.key:
                break
        else:
            return None
        self._ahead.remove(ahead)
        answer = ahead.answer(request.tree_fds)
        if "ready" not in answer:
            self._discard(ahead)
            if ahead.wants_trees and "error" in answer:
                raise MountRefused(answer)
            return None
        ahead.conversation.close()
        return ahead.container

    def _discard(self, ahead: Ahead) -> None:
        ahead.conversation.close()
        self.remains.dispose_later(ahead.container)

    def _at_all_costs(self, make: Callable[[], Made]) -> Made:
        """Make something; for want of descriptors once more, without what nobody asked for."""
        try:
            return make()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
        self._make_room()
        return make()

    def _make(self, request: Request) -> Container:
        """Make a container: its cgroups and files while init, in the nursery, comes to life."""
        birth, root = self._begin(request)
        try:
            group = self._parent.create(os.urandom(6).hex(), request.plan["limits"])
        except OSError:
            self._give_up(birth, root)
            raise
        try:
            self._admit(birth, root, group)
        except OSError:
            self.remains.remove(group)
            raise
        return Container(group, root.rw_layer, birth)

    def _admit(self, birth: Birth, root: Root, group: Group, kept: RwLayer | None = None) -> None:
        """Let an init enter its control groups; after an error it is dead."""
        try:
            birth.admit(group)
        except ConnectionError:
            pass  # it was killed: whoever waits for its word will ask for its status
        except OSError:
            self._give_up(birth, root, kept)
            raise

    def _begin(self, request: Request, kept: RwLayer | None = None) -> tuple[Birth, Root]:
        """Give an init its root file system, on a new rw layer unless one is given.

        After an error there is none.
        """
        birth = self._spare.take(request) or self._nursery.bear(request.key, request.plan)
        try:
            root = self._make_root(request, kept)
        except OSError:
            birth.abandon()
            raise
        try:
            return self._tell(birth, request, root), root
        except OSError:
            if root.rw_layer is not kept:
                root.rw_layer.close()
            raise
        finally:
            root.close_start()

    def _tell(self, birth: Birth, request: Request, root: Root) -> Birth:
        """Tell an init what to be, or another one where that may do; return the one that knows.

        After an error there is none.
        """
        for pause_s in (*PAUSES_S, None):
            try:
                birth.tell(request, root)
            except OSError as error:
                birth.abandon()
                # that of a spare says nothing about now
                if not birth.is_spare:
                    if pause_s is None or error.errno not in (*LOST, *SCARCE):
                        raise
                    if request.is_ahead and error.errno in SCARCE:
                        raise  # nobody waits for it, and others may wait for this process
                    if error.errno in SCARCE:
                        self._make_room()
                        time.sleep(pause_s)
                birth = self._nursery.bear(request.key, request.plan)
            else:
                break
        return birth

    def _make_room(self) -> None:
        """Give up all that nobody has asked for: a start that fits without it shall not fail."""
        for ahead in self._ahead:
            self._discard(ahead)
        self._ahead.clear()
        self._spare.give_up()
        self._trees.make_room()
        while self.remains.do_one():
            pass

    def _give_up(self, birth: Birth, root: Root, kept: RwLayer | None = None) -> None:
        birth.abandon()
        if root.rw_layer is not kept:
            root.rw_layer.close()

    def _make_root(self, request: Request, kept: RwLayer | None) -> Root:
        plan, tree_fds = request.plan, request.tree_fds
        if plan["host_tree"] >= 0 and tree_fds:
            self._trees.add_host(tree_fds[plan["host_tree"]])
        return self._trees.make(plan, kept)
