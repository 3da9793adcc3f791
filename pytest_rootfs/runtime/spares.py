"""The spare: an init and an empty rw layer, from before anybody asks, for whatever is asked for.

It is there where no container is made ahead, and makes way where there is too little for both.
"""

from __future__ import annotations

import errno
import os
import resource

from pytest_rootfs.runtime.nursery import kind_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_rootfs.runtime.nursery import Birth, Nursery
    from pytest_rootfs.runtime.orders import Request
    from pytest_rootfs.runtime.protocol import Message
    from pytest_rootfs.runtime.remains import Remains
    from pytest_rootfs.runtime.root_trees import RootTrees

DESCRIPTORS_LEFT = 48
"""So many are left to containers that somebody asks for: each takes nine."""


class Spare:
    """The one of a session."""

    def __init__(self, trees: RootTrees, nursery: Nursery, remains: Remains) -> None:
        self._trees = trees
        self._nursery = nursery
        self._remains = remains
        self._birth: Birth | None = None

    def make(self, key: str, plan: Message) -> None:
        """Have one for a plan, unless there is; what is wrong now, the next container will say."""
        if self._birth is not None and self._birth.kind != kind_of(plan):
            self.give_up()
        try:
            if self._birth is None:
                require_descriptors()
                self._birth = self._nursery.bear(key, plan, is_spare=True)
            self._trees.make_spare(plan)
        except OSError:
            self.give_up()

    def take(self, request: Request) -> Birth | None:
        """Return its init, if it can become what is asked for."""
        if self._birth is None or self._birth.kind != kind_of(request.plan):
            return None
        taken, self._birth = self._birth, None
        return taken

    def give_up(self) -> None:
        """Make way; what is left of it is among the remains. Idempotent."""
        if self._birth is not None:
            self._remains.abandon_later(self._birth)
            self._birth = None


def require_descriptors() -> None:
    """Raise OSError where too few are left for what nobody asks for."""
    lowest_free = os.dup(0)
    os.close(lowest_free)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if lowest_free + DESCRIPTORS_LEFT > most:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), f"{most}")
