"""One session folder in one hierarchy, and the groups below it: what v1 and v2 have in common."""

from __future__ import annotations

import errno
import os

from pytest_rootfs.kernel import cgroups_files as files
from pytest_rootfs.kernel.cgroups_files import Folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_rootfs.kernel.cgroups_files import Figures, Limits, LimitValue, Owner

LIMITS = (("memory", "memory"), ("pids", "pids"), ("cpu", "cpus"))
"""Which controller enforces which limit."""


class Hierarchy:
    """The folder `name` in the folder `base`, given to `owner`.

    `controllers` are those that work in it, `missing` says why others do not. Usable after a fork,
    by the owner, although the path is not.
    """

    __slots__ = ("base", "controllers", "entrance_fd", "folder", "missing", "name")

    entrance = ""
    """The file, below the session folder, that takes the session's own processes."""
    given: tuple[str, ...] = ()
    """The files, below the session folder, that whoever makes groups there must own."""

    def __init__(
        self, base: str, name: str, controllers: tuple[str, ...], owner: Owner | None
    ) -> None:
        self.name = name
        self.entrance_fd = -1
        self.base = Folder(base)
        self.folder = self.base
        try:
            self.base.mkdir(name)
        except OSError:
            self.close()
            raise
        try:
            self.folder = Folder(os.path.join(base, name))
            self._refuse_frozen()
            self.missing = self.set_up(controllers)
            self.controllers = tuple(c for c in controllers if c not in self.missing)
            self.entrance_fd = self.folder.open(self.entrance, os.O_WRONLY)
            if owner is not None:
                self.folder.give(owner, self.given)
        except OSError:
            self.remove()
            self.close()
            raise

    def _refuse_frozen(self) -> None:
        """Refuse a folder that has inherited the frozen state: who joins would stop, for ever."""
        if self.is_frozen():
            raise OSError(errno.EBUSY, "frozen", self.folder.path)

    def set_up(self, controllers: tuple[str, ...]) -> dict[str, str]:
        """Prepare the new folder; return which controllers do not work in it, and why."""
        raise NotImplementedError

    def is_frozen(self) -> bool:
        """Tell whether processes in the new folder do not run."""
        raise NotImplementedError

    def limit(self, name: str, controller: str, value: LimitValue) -> None:
        """Change a limit of a group, in use or not; None takes it away."""
        raise NotImplementedError

    def read(self, name: str, figures: Figures) -> None:
        """Fill in the figures of a group that this hierarchy knows."""
        raise NotImplementedError

    def open_group(self, name: str) -> int:
        """Return the descriptor by which commands get into a group; the caller closes."""
        raise NotImplementedError

    def is_populated(self, name: str) -> bool:
        """Tell whether a process is in this folder beside ours, or in a group below it."""
        raise NotImplementedError

    def enter(self) -> None:
        """Put the calling process into the session; its children start there."""
        try:
            os.write(self.entrance_fd, b"0")
        except OSError as error:
            raise files.explained(error, "write '0' to", self.folder.at(self.entrance)) from error

    def create(self, name: str, limits: Limits) -> None:
        """Make a group and set its limits; removes what it made if one is refused."""
        self.folder.mkdir(name)
        try:
            for controller, key in LIMITS:
                value = limits.get(key)
                if value is not None and controller in self.controllers:
                    self.limit_new(name, controller, value)
        except OSError:
            self.folder.rmdir(name)
            raise

    def limit_new(self, name: str, controller: str, value: LimitValue) -> None:
        """Set a limit of a group that has none yet and no process."""
        self.limit(name, controller, value)

    def try_folder(self) -> None:
        """Make and remove a group, as who calls."""
        self.folder.mkdir("trial")
        self.folder.rmdir("trial")

    def remove(self) -> bool:
        """Remove the session folder and what is below; False if a process is still in it."""
        return files.remove_tree(self.base, self.name)

    def close(self) -> None:
        """Close the descriptors; the folders stay."""
        if self.entrance_fd >= 0:
            os.close(self.entrance_fd)
        if self.folder is not self.base:
            self.folder.close()
        self.base.close()
