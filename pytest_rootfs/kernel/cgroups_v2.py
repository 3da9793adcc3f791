"""One session folder in the v2 tree, and the groups below it.

Source: the kernel's cgroup-v2.rst ("no internal process constraint", "delegation containment").

    BASE/                   controllers enabled for its children; not ours
    BASE/SESSION/           given to the owner; holds no process, so controllers can be enabled
    BASE/SESSION/init/      spawner and inits, no limit
    BASE/SESSION/NAME/      the commands of one container, with its limits

Commands are put into NAME by clone3(CLONE_INTO_CGROUP), by a caller who may write `cgroup.procs`
of SESSION and NAME. With the mount option nsdelegate both must lie below the root of the caller's
control group *namespace*: an init that has one of its own, whose root is `init/`, gets ENOENT.
"""

from __future__ import annotations

import errno
import os
import select
import time

from pytest_rootfs.kernel import cgroups_files as files
from pytest_rootfs.kernel.cgroups_files import Folder
from pytest_rootfs.kernel.cgroups_hierarchy import Hierarchy
from pytest_rootfs.kernel.cgroups_rights import LEAF

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_rootfs.kernel.cgroups_files import Figures, LimitValue

INIT = "init"
_EVACUATION_ROUNDS = 8
_FREEZING_S = 2.0


class V2Hierarchy(Hierarchy):
    """A session folder in the v2 tree, with the controllers that could be enabled in it."""

    __slots__ = ("_counts_swap",)

    entrance = f"{INIT}/cgroup.procs"
    given = (
        "cgroup.procs",
        "cgroup.subtree_control",
        "cgroup.threads",
        INIT,
        f"{INIT}/cgroup.procs",
    )

    def set_up(self, controllers: tuple[str, ...]) -> dict[str, str]:
        """Enable the controllers, and make `init/`, whose `cgroup.procs` costs 10 ms a session."""
        refused = enable(self.folder, controllers)
        self.folder.mkdir(INIT)
        self._counts_swap = self.folder.has(f"{INIT}/memory.swap.max")
        return refused

    def is_frozen(self) -> bool:
        """Tell whether this folder, or one above it, was told to freeze (since 5.2)."""
        return files.keyed_in(self.folder.read("cgroup.events")).get("frozen") == 1

    def limit(self, name: str, controller: str, value: LimitValue) -> None:
        """Change a limit of a group, in use or not; None takes it away."""
        if controller == "memory":
            if value is not None:
                self._free_memory(name, int(value))
            self._limit_memory(name, "max" if value is None else str(int(value)))
        elif controller == "pids":
            self.folder.write(f"{name}/pids.max", "max" if value is None else str(int(value)))
        else:
            quota = "max" if value is None else str(files.cpu_quota_us(value))
            self.folder.write(f"{name}/cpu.max", f"{quota} {files.CPU_PERIOD_US}")

    def limit_new(self, name: str, controller: str, value: LimitValue) -> None:
        """Set a limit of a group that has none yet: for memory, without looking at what is used."""
        if controller == "memory" and value is not None:
            self._limit_memory(name, str(int(value)))
        else:
            self.limit(name, controller, value)

    def freeze(self, name: str, *, frozen: bool) -> None:
        """Let a group stand still, or go on; cgroup-v2.rst, "cgroup.freeze", since Linux 5.2.

        Returns when all stand still. Raises ETIMEDOUT if one does not, and lets all go on.
        """
        self.folder.write(f"{name}/cgroup.freeze", str(int(frozen)))
        if frozen and not self._becomes_frozen(name):
            self.folder.write(f"{name}/cgroup.freeze", "0")
            raise OSError(errno.ETIMEDOUT, "a process does not stop", self.folder.at(name))

    def _becomes_frozen(self, name: str) -> bool:
        """Wait for `frozen 1` in `cgroup.events`, whose changes poll(2) reports as POLLPRI."""
        fd = self.folder.open(f"{name}/cgroup.events", os.O_RDONLY)
        try:
            changed = select.poll()
            changed.register(fd, select.POLLPRI)
            deadline = time.monotonic() + _FREEZING_S
            while files.keyed_in(os.pread(fd, 4096, 0).decode()).get("frozen") != 1:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    return False
                changed.poll(left_s * 1000)
            return True
        finally:
            os.close(fd)

    def read(self, name: str, figures: Figures) -> None:
        """Fill in the figures of a group that the enabled controllers know."""
        read = self.folder.read
        stat = files.keyed_in(read(f"{name}/cpu.stat"))
        if "usage_usec" in stat:  # there without the cpu controller too
            figures["cpu_s"] = stat["usage_usec"] / 1e6
        if "throttled_usec" in stat:
            figures["throttled_s"] = stat["throttled_usec"] / 1e6
        if "memory" in self.controllers:
            figures["memory_bytes"] = files.number_in(read(f"{name}/memory.current"))
            figures["memory_peak_bytes"] = files.number_in(read(f"{name}/memory.peak"))  # 5.19
            figures["oom_kills"] = files.keyed_in(read(f"{name}/memory.events")).get("oom_kill")
        if "pids" in self.controllers:
            figures["pids"] = files.number_in(read(f"{name}/pids.current"))
            figures["pids_peak"] = files.number_in(read(f"{name}/pids.peak"))  # since 6.5
            figures["pids_max_hits"] = files.keyed_in(read(f"{name}/pids.events")).get("max")
        if "io" in self.controllers:
            self._read_io(name, figures)

    def open_group(self, name: str) -> int:
        """Return the descriptor for clone3(CLONE_INTO_CGROUP); the caller closes."""
        return self.folder.open(name, os.O_PATH | os.O_DIRECTORY)

    def is_populated(self, name: str) -> bool:
        """Tell whether a process is in this folder beside ours, or in a group below it."""
        return files.keyed_in(self.base.read(f"{name}/cgroup.events")).get("populated") == 1

    def _free_memory(self, name: str, most: int) -> None:
        """Have the kernel free what it can; raises EBUSY when more than `most` is still in use.

        `memory.max` would kill then, where v1 refuses. `memory.high` frees and kills nothing.
        """
        self.folder.write(f"{name}/memory.high", str(most))
        try:
            used = files.number_in(self.folder.read(f"{name}/memory.current")) or 0
            if used > most:
                raise OSError(errno.EBUSY, f"{used} bytes are in use", self.folder.at(name))
        finally:
            self.folder.write(f"{name}/memory.high", "max")

    def _limit_memory(self, name: str, value: str) -> None:
        """Limit memory and swap together, as v1's memsw does.

        `memory.oom.group` stays off: as on v1, and in Docker, the kernel kills the process that is
        to blame, and a server beside it in the container goes on.
        """
        self.folder.write(f"{name}/memory.max", value)
        if self._counts_swap:
            self.folder.write(f"{name}/memory.swap.max", "max" if value == "max" else "0")

    def _read_io(self, name: str, figures: Figures) -> None:
        text = self.folder.read(f"{name}/io.stat")
        if text is None:
            return
        pairs = [word.split("=") for word in text.split() if "=" in word]
        for key, figure in (("rbytes", "read_bytes"), ("wbytes", "written_bytes")):
            figures[figure] = sum(int(pair[1]) for pair in pairs if pair[0] == key)


def enable(folder: Folder, controllers: tuple[str, ...]) -> dict[str, str]:
    """Enable controllers for the children of a folder, one at a time; return why some were not."""
    refused = {}
    for controller in controllers:
        try:
            folder.write("cgroup.subtree_control", f"+{controller}")
        except OSError as error:
            refused[controller] = f"{error.filename}: {os.strerror(error.errno or 0)}"
    return refused


def evacuate(path: str) -> None:
    """Move the processes of a folder that is ours into a leaf, so that controllers can be enabled.

    Several pytest-xdist workers may do so at once: the leaf has one name, moving is idempotent.
    Raises EBUSY when processes are left, as those of another pid namespace are.
    """
    folder = Folder(path)
    try:
        for _ in range(_EVACUATION_ROUNDS):
            pids = (folder.read("cgroup.procs") or "").split()
            if not pids:
                return
            _make_leaf(folder)
            for pid in pids:
                _move(folder, pid)
        raise OSError(errno.EBUSY, "move all processes out of", path)
    finally:
        folder.close()


def _make_leaf(folder: Folder) -> None:
    try:
        folder.mkdir(LEAF)
    except OSError as error:
        if error.errno != errno.EEXIST:  # of an earlier session, or of another worker just now
            raise


def _move(folder: Folder, pid: str) -> None:
    try:
        folder.write(f"{LEAF}/cgroup.procs", pid)
    except OSError as error:
        if error.errno not in (errno.ESRCH, errno.EINVAL):  # gone meanwhile; another pid namespace
            raise
