"""What dead containers leave: given up when nobody waits, and never more than a few at a time."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_rootfs.kernel.cgroups import Group
    from pytest_rootfs.runtime.nursery import Birth
    from pytest_rootfs.runtime.spawned import Container

TASKS_MAX = 4


class Remains:
    """What is still to be given up."""

    def __init__(self) -> None:
        self._tasks: list[Callable[[], None]] = []
        self._busy_groups: list[Group] = []

    def dispose_later(self, container: Container) -> None:
        """Give up a dead container when nobody waits."""
        self._add(lambda: self.dispose(container))

    def let_go_later(self, container: Container) -> None:
        """Let the kernel undo a dead container's namespaces when nobody waits; it stays itself."""
        self._add(container.init.close)

    def abandon_later(self, birth: Birth) -> None:
        """Kill an init that is of no use when nobody waits."""
        self._add(birth.abandon)

    def do_one(self) -> bool:
        """Give up one thing; tell whether there was one."""
        if not self._tasks:
            return False
        try:
            self._tasks.pop(0)()
        except OSError:
            pass  # nobody waits for it: what is left, the warden removes, or the next session
        return True

    def dispose(self, container: Container) -> None:
        """Kill a container and give up all that is kept of it."""
        container.end()
        try:
            container.close()
        finally:
            self.remove(container.group)

    def remove(self, group: Group) -> None:
        """Remove a control group, as soon as nothing is in it any more."""
        self._busy_groups = [group for group in [*self._busy_groups, group] if not group.remove()]

    def _add(self, task: Callable[[], None]) -> None:
        while len(self._tasks) >= TASKS_MAX:
            self.do_one()
        self._tasks.append(task)
