"""The session's control groups (`Parent`) and those of one container (`Group`).

One interface over v1, hybrid, v2 and none: a group without any hierarchy does nothing, and its
figures are all None.
"""

from __future__ import annotations

import errno
import os

from pytest_rootfs.kernel import cgroups_files as files
from pytest_rootfs.kernel import cgroups_rights as rights
from pytest_rootfs.kernel.cgroups_hierarchy import LIMITS
from pytest_rootfs.kernel.cgroups_layout import CONTROLLERS
from pytest_rootfs.kernel.cgroups_v2 import V2Hierarchy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_rootfs.kernel.cgroups_files import Figures, Limits, LimitValue
    from pytest_rootfs.kernel.cgroups_hierarchy import Hierarchy
    from pytest_rootfs.kernel.cgroups_layout import Kind

FIGURES = (
    "memory_bytes",
    "memory_peak_bytes",
    "cpu_s",
    "pids",
    "pids_peak",
    "oom_kills",
    "throttled_s",
    "read_bytes",
    "written_bytes",
    "pids_max_hits",
)
_CONTROLLER_OF = {key: controller for controller, key in LIMITS}


class Entrances:
    """The descriptors by which processes enter the control group of a container.

    v1: init writes `0` to every descriptor in `init_tasks` once; each command writes `0` to those
    in `command_tasks` while it still has the ids of container root; a thread that joined only to
    fork a command goes back by `leave_tasks`, which stay the parent's. v2: each command is cloned
    into `into_fd`.
    """

    __slots__ = ("command_tasks", "init_tasks", "into_fd", "leave_tasks")

    def __init__(self) -> None:
        self.init_tasks: list[int] = []
        self.command_tasks: list[int] = []
        self.leave_tasks: list[int] = []
        self.into_fd: int | None = None

    def packed(self) -> tuple[list[int], list[int]]:
        """Return how many there are of each kind, and all of them, for `unpacked`."""
        into = [] if self.into_fd is None else [self.into_fd]
        kinds = [self.init_tasks, self.command_tasks, self.leave_tasks, into]
        return [len(kind) for kind in kinds], [fd for kind in kinds for fd in kind]

    @staticmethod
    def unpacked(counts: Sequence[int], fds: Sequence[int]) -> Entrances:
        """Return the entrances that another process has packed and sent."""
        rest = iter(fds)
        made = Entrances()
        made.init_tasks, made.command_tasks, made.leave_tasks, into = (
            [next(rest) for _ in range(count)] for count in counts
        )
        made.into_fd = into[0] if into else None
        return made


class Group(Entrances):
    """The control group of one container, in each hierarchy of its parent."""

    __slots__ = ("_is_frozen", "name", "parent")

    def __init__(self, parent: Parent, name: str) -> None:
        super().__init__()
        self.parent = parent
        self.name = name
        self._is_frozen = False

    def open_in(self, hierarchy: Hierarchy) -> None:
        """Open the way into the group in one hierarchy."""
        fd = hierarchy.open_group(self.name)
        if isinstance(hierarchy, V2Hierarchy):
            self.into_fd = fd
        elif "memory" in hierarchy.controllers:
            self.command_tasks.append(fd)
            self.leave_tasks.append(hierarchy.entrance_fd)
        else:
            self.init_tasks.append(fd)

    def limit(self, key: str, value: LimitValue) -> None:
        """Change the limit `memory` (bytes), `pids` or `cpus` of a living group; None lifts it.

        Raises EBUSY for less memory than is in use and cannot be freed.
        """
        controller = _CONTROLLER_OF[key]
        for hierarchy in self.parent.hierarchies:
            if controller in hierarchy.controllers:
                hierarchy.limit(self.name, controller, value)
                return
        raise OSError(errno.EOPNOTSUPP, f"limit {key}: no {controller} controller", self.name)

    def freeze(self, *, frozen: bool) -> None:
        """Let every process of the group stand still, or go on: v2 only, elsewhere nothing happens.

        Idempotent. Raises ETIMEDOUT when one does not stop, and then all go on.
        """
        if frozen == self._is_frozen:
            return
        for hierarchy in self.parent.hierarchies:
            if isinstance(hierarchy, V2Hierarchy):
                hierarchy.freeze(self.name, frozen=frozen)
                self._is_frozen = frozen

    def read(self) -> Figures:
        """Return every figure of `FIGURES`, without init; None where this host has none."""
        figures: Figures = dict.fromkeys(FIGURES)
        for hierarchy in self.parent.hierarchies:
            hierarchy.read(self.name, figures)
        return figures

    def remove(self) -> bool:
        """Close the descriptors and remove the folders; False while one is in use. Idempotent."""
        self.close()
        removed = [h.folder.rmdir(self.name) for h in self.parent.hierarchies]
        return all(removed)

    def close(self) -> None:
        """Close the descriptors; the folders stay. Idempotent."""
        fds = [*self.init_tasks, *self.command_tasks]
        if self.into_fd is not None:
            fds.append(self.into_fd)
        self.init_tasks, self.command_tasks, self.leave_tasks = [], [], []
        self.into_fd = None
        for fd in fds:
            os.close(fd)


class Parent:
    """The session's folders, one in each usable hierarchy; usable after a fork, with other ids.

    `controllers` says for memory, pids and cpu whether a limit can be set; `reasons` has one
    sentence, with the way out, for each that cannot. `kind` is "none" when none can.
    """

    __slots__ = ("controllers", "hierarchies", "kind", "name", "reasons")

    def __init__(self, name: str, host_kind: Kind) -> None:
        self.name = name
        self.kind: Kind = host_kind
        self.hierarchies: list[Hierarchy] = []
        self.controllers: dict[str, bool] = dict.fromkeys(CONTROLLERS, False)
        self.reasons: dict[str, str] = {}

    def enter(self) -> None:
        """Put the calling process, the spawner, into the session: once, before it makes an init.

        Before it changes its ids, too. On v2 this is what lets init clone commands into groups.
        """
        for hierarchy in self.hierarchies:
            hierarchy.enter()

    @property
    def clones_into_groups(self) -> bool:
        """Whether commands are cloned into groups: on v2."""
        return any(isinstance(hierarchy, V2Hierarchy) for hierarchy in self.hierarchies)

    def create(self, name: str, limits: Limits) -> Group:
        """Make a container's group with the limits `memory` (bytes), `pids`, `cpus`; None is none.

        A limit of a controller that cannot be used here is left out: who needs it looks at
        `controllers` before. All or nothing: after an error no folder and no descriptor is left.
        """
        group = Group(self, name)
        made: list[Hierarchy] = []
        try:
            for hierarchy in self.hierarchies:
                hierarchy.create(name, limits)
                made.append(hierarchy)
                group.open_in(hierarchy)
        except OSError:
            group.close()
            for hierarchy in made:
                hierarchy.folder.rmdir(name)
            raise
        return group

    def sweep(self) -> list[str]:
        """Remove the empty session folders of dead owners beside ours; return their paths."""
        return [
            hierarchy.base.at(name)
            for hierarchy in self.hierarchies
            for name in files.folders_in(hierarchy.base)
            if _is_abandoned(hierarchy, name) and files.remove_tree(hierarchy.base, name)
        ]

    def remove(self) -> bool:
        """Remove the session's folders when all in them are dead; False if one is still in use."""
        removed = [hierarchy.remove() for hierarchy in self.hierarchies]
        return all(removed)

    def close(self) -> None:
        """Close the descriptors; the folders stay. Idempotent."""
        hierarchies, self.hierarchies = self.hierarchies, []
        for hierarchy in hierarchies:
            hierarchy.close()

    def describe(self) -> dict[str, object]:
        """Return what a report or `doctor` shows, as plain data."""
        return {
            "kind": self.kind,
            "controllers": dict(self.controllers),
            "reasons": dict(self.reasons),
            "folders": [hierarchy.folder.path for hierarchy in self.hierarchies],
        }


def _is_abandoned(hierarchy: Hierarchy, name: str) -> bool:
    """Tell whether a folder's owner is gone, by its name, and no process is in it.

    The second question protects a living session that has another pid namespace.
    """
    return rights.is_orphan(name) and not hierarchy.is_populated(name)
