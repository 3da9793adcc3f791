"""Make containers for the spawner: on demand, and the next ones ahead.

While a test runs, the container that will probably be asked for next is made and waits, ready: the
one with the plan that followed last time on the two plans just used. Asked for, it is handed over
at once; what is not expected any more is killed. There is one, or two where tests use several.
"""

from __future__ import annotations

import os

from pytest_rootfs.runtime import protocol
from pytest_rootfs.runtime.nursery import kind_of
from pytest_rootfs.runtime.orders import Request
from pytest_rootfs.runtime.spawned import Container

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from pytest_rootfs.kernel.cgroups import Group, Parent
    from pytest_rootfs.runtime.nursery import Birth, Nursery
    from pytest_rootfs.runtime.protocol import Message
    from pytest_rootfs.runtime.root_trees import Root, RootTrees
    from pytest_rootfs.runtime.rw_folders import RwLayer

KEPT_SUCCESSIONS = 256
REMEMBERED = 2
"""How many plans back the next one is known by: as many as tests with two containers take turns."""

CONFIRMED = 2
"""How many times two plans were followed by the same one until more is made of that than of what
has followed last on the second."""

AHEAD_MAX = 2
DEAD_MAX = 4
READY_S = 10.0


class MountRefused(Exception):
    """A container made ahead cannot have the mounts of the call: they are used up by trying."""

    def __init__(self, answer: Message) -> None:
        super().__init__()
        self.answer = answer


class Ahead:
    """A container that nobody has asked for yet, and the conversation in which it is ready."""

    __slots__ = ("container", "conversation", "key", "wants_trees")

    def __init__(
        self, key: str, plan: Message, container: Container, conversation: socket.socket
    ) -> None:
        self.key = key
        self.container = container
        self.conversation = conversation
        self.wants_trees: bool = plan["wants_trees"]
        """Whether it stands before the mounts of people, whose trees come with the call."""

    def answer(self, tree_fds: Sequence[int]) -> Message:
        """Give it what came with the call; return what it says, nothing from one that is dead."""
        self.conversation.settimeout(READY_S)
        try:
            if self.wants_trees and not self.container.is_dead:
                protocol.send(self.conversation, {}, tree_fds)
            message, fds = protocol.receive(self.conversation)
        except OSError:
            return {}
        protocol.close_all(fds)
        if message is None or ("ready" in message and self.container.is_dead):
            return {}
        return message


class Births:
    """Makes the containers of one session."""

    def __init__(self, trees: RootTrees, parent: Parent, nursery: Nursery) -> None:
        self._trees = trees
        self._parent = parent
        self._nursery = nursery
        self._last_keys: tuple[str, ...] = ()
        """The plans just used, the newest last; "" for one that will hardly be used again."""
        self._successors: dict[tuple[str, ...], tuple[str, int]] = {}
        """Which plan was asked for after which one or two, and how many times in a row now."""
        self._ahead: list[Ahead] = []
        self._dead: list[Container] = []
        """Those that are to be given up when nobody waits."""
        self._kept: list[Container] = []
        """Those whose namespaces are to be let go of then."""
        self._depth = 1
        self._busy_groups: list[Group] = []
        self._spare: Birth | None = None
        """An init of the plan used last, without a container yet."""
        self._last: tuple[str, Message] | None = None
        """That plan, and its key."""

    def create(self, request: Request, *, is_beside_others: bool) -> tuple[Container, bool]:
        """Return a container, and whether it is ready; else its init says so, to who asks.

        `is_beside_others` says that there are others, so that the next ones are asked for at once.
        Raises MountRefused, or OSError.
        """
        container = self._take_ahead(request)
        is_ready = container is not None
        if container is None:
            container = self._make(request)
        if is_beside_others:
            self._depth = AHEAD_MAX
        # what stands on a snapshot is another one each time
        self._learn("" if request.plan["is_singular"] else request.key)
        self._last = request.key, request.plan
        return container, is_ready

    def restart(self, container: Container, request: Request, *, is_emptied: bool) -> None:
        """Kill every process and begin anew, with the same cgroups and the same or a new rw layer.

        Init tells who asks when it is ready; `settle` is then to follow. After an error the
        container is dead, and keeps both.
        """
        container.end()
        container.let_go()  # a rw layer is for one overlay at a time
        container.settle(is_ready=True)
        container.group.freeze(frozen=False)
        kept = container.rw_layer
        birth, root = self._begin(request, None if is_emptied else kept)
        try:
            birth.admit(container.group)
        except OSError:
            self._give_up(birth, root, kept)
            raise
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
        wanted = self._foresee()
        for ahead in list(self._ahead):
            if ahead.key in wanted:
                wanted.remove(ahead.key)
            else:
                self._ahead.remove(ahead)
                self._discard(ahead)
        return wanted[0] if wanted else None

    def make_ahead(self, key: str, plan: Message) -> bool:
        """Make the next container; what fails now is reported when somebody asks for it."""
        own, far = protocol.pair()
        with far:
            try:
                container = self._make(Request(key, plan, far, is_ahead=True))
            except OSError:
                own.close()
                self._forget(key)
                return False
        self._ahead.append(Ahead(key, plan, container, own))
        return True

    def bear_spare(self) -> bool:
        """Have an init born for what nobody foresees; tell whether that was to be done."""
        if self._ahead or self._spare is not None or self._last is None:
            return False
        self._spare = self._nursery.bear(*self._last, is_spare=True)
        try:
            self._trees.make_spare(self._last[1])
        except OSError:
            pass  # what is wrong here, the next container will say
        return True

    def discard_all(self) -> None:
        """Kill what nobody has asked for, and give up the containers that are dead."""
        if self._spare is not None:
            self._spare.abandon()
        while self._ahead:
            self._discard(self._ahead.pop())
        while self.dispose_one():
            pass

    def dispose_later(self, container: Container) -> None:
        """Give up a dead container when nobody waits; those before it now, if there are many."""
        while len(self._dead) >= DEAD_MAX:
            self.dispose_one()
        self._dead.append(container)

    def let_go_later(self, container: Container) -> None:
        """Let the kernel undo a dead container's namespaces when nobody waits; it stays itself."""
        while len(self._kept) >= DEAD_MAX:
            self._kept.pop(0).let_go()
        self._kept.append(container)

    def dispose_one(self) -> bool:
        """Give up a dead container, or let go of one; tell whether there was one."""
        if self._dead:
            self.dispose(self._dead.pop(0))
        elif self._kept:
            self._kept.pop(0).let_go()
        else:
            return False
        return True

    def dispose(self, container: Container) -> None:
        """Kill a container and give up all that is kept of it."""
        container.end()
        container.close()
        self._remove(container.group)

    def _foresee(self) -> list[str]:
        """Return the plans that will probably be asked for next, as many as are made ahead."""
        last_keys = self._last_keys
        foreseen: list[str] = []
        while len(foreseen) < self._depth:
            key, count = self._successors.get(last_keys, ("", 0))
            if count < CONFIRMED:
                key, _ = self._successors.get(last_keys[-1:], ("", 0))
            if not key:
                break
            foreseen.append(key)
            last_keys = (*last_keys, key)[-REMEMBERED:]
        return foreseen

    def _learn(self, key: str) -> None:
        if len(self._successors) >= KEPT_SUCCESSIONS:
            self._successors.clear()
        for before in {self._last_keys, self._last_keys[-1:]}:
            known, count = self._successors.get(before, ("", 0))
            self._successors[before] = key, count + 1 if known == key else 1
        self._last_keys = (*self._last_keys, key)[-REMEMBERED:]

    def _forget(self, key: str) -> None:
        known = self._successors.items()
        self._successors = {before: after for before, after in known if after[0] != key}

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
        self.dispose(ahead.container)

    def _make(self, request: Request) -> Container:
        """Make a container: its cgroups and files while init, in the nursery, comes to life."""
        birth, root = self._begin(request)
        try:
            group = self._parent.create(os.urandom(6).hex(), request.plan["limits"])
        except OSError:
            self._give_up(birth, root)
            raise
        try:
            birth.admit(group)
        except OSError:
            self._give_up(birth, root)
            self._remove(group)
            raise
        return Container(group, root.rw_layer, birth)

    def _begin(self, request: Request, kept: RwLayer | None = None) -> tuple[Birth, Root]:
        """Give an init its root file system, on a new rw layer unless one is given.

        After an error there is none.
        """
        birth = self._take_spare(request) or self._nursery.bear(request.key, request.plan)
        try:
            root = self._make_root(request, kept)
        except OSError:
            birth.abandon()
            raise
        try:
            try:
                birth.tell(request, root)
            except OSError:  # that one may have been killed, or its nursery
                birth.abandon()
                birth = self._nursery.bear(request.key, request.plan)
                birth.tell(request, root)
        except OSError:
            self._give_up(birth, root, kept)
            raise
        finally:
            root.close_start()
        return birth, root

    def _take_spare(self, request: Request) -> Birth | None:
        spare, self._spare = self._spare, None
        if spare is not None and spare.kind != kind_of(request.plan):
            spare.abandon()
            return None
        return spare

    def _give_up(self, birth: Birth, root: Root, kept: RwLayer | None = None) -> None:
        birth.abandon()
        if root.rw_layer is not kept:
            root.rw_layer.close()

    def _make_root(self, request: Request, kept: RwLayer | None) -> Root:
        plan, tree_fds = request.plan, request.tree_fds
        if plan["host_tree"] >= 0 and tree_fds:
            self._trees.add_host(tree_fds[plan["host_tree"]])
        return self._trees.make(plan, kept)

    def _remove(self, group: Group) -> None:
        self._busy_groups = [group for group in [*self._busy_groups, group] if not group.remove()]
