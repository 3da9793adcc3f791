"""A session folder in a v1 hierarchy of one or more controllers.

Source: the kernel's cgroup-v1/{cgroups,memory,pids}.rst and scheduler/sched-bwc.rst.

A process joins by writing `0` to `tasks` itself: 25 µs, where writing a pid to `cgroup.procs` waits
for an RCU grace period (9-15 ms). The kernel compares the user who *opened* `tasks` (real root
always passes) with the user of the writer, so a process joins before it changes its ids.
"""

from __future__ import annotations

import errno
import os

from pytest_rootfs.kernel import cgroups_files as files
from pytest_rootfs.kernel.cgroups_hierarchy import Hierarchy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_rootfs.kernel.cgroups_files import Figures, Folder, LimitValue

_MEMORY = "memory.limit_in_bytes"
_MEMORY_AND_SWAP = "memory.memsw.limit_in_bytes"
_QUOTA = "cpu.cfs_quota_us"
_LIMIT_FILES = {"memory": _MEMORY, "pids": "pids.max", "cpu": _QUOTA}


class V1Hierarchy(Hierarchy):
    """A session folder in a v1 hierarchy.

    Init joins `pids`, so `init_pids` of it are added to every limit and taken off every figure.
    """

    __slots__ = ("_counts_swap", "init_pids")

    entrance = "tasks"
    given = ("cgroup.procs", "tasks")

    def set_up(self, controllers: tuple[str, ...]) -> dict[str, str]:
        """Find out which limits this kernel has."""
        self.init_pids = 1
        self._counts_swap = self.folder.has(_MEMORY_AND_SWAP)
        absent = [
            controller
            for controller in controllers
            if controller in _LIMIT_FILES and not self.folder.has(_LIMIT_FILES[controller])
        ]
        return {
            controller: f"this kernel has no {_LIMIT_FILES[controller]}" for controller in absent
        }

    def is_frozen(self) -> bool:
        """Tell whether the freezer, if it is mounted together with these, holds processes."""
        return (self.folder.read("freezer.state") or "THAWED\n") != "THAWED\n"

    def limit(self, name: str, controller: str, value: LimitValue) -> None:
        """Change a limit of a group, in use or not; None takes it away."""
        if controller == "memory":
            self._change_memory(name, "-1" if value is None else str(int(value)))
        elif controller == "pids":
            text = "max" if value is None else str(int(value) + self.init_pids)
            self.folder.write(f"{name}/pids.max", text)
        else:
            self._set_quota(name, "-1" if value is None else str(files.cpu_quota_us(value)))

    def limit_new(self, name: str, controller: str, value: LimitValue) -> None:
        """Set a limit of a group that has none yet: for memory, without looking at the old one."""
        if controller != "memory" or value is None:
            self.limit(name, controller, value)
            return
        self.folder.write(f"{name}/{_MEMORY}", str(int(value)))
        if self._counts_swap:
            self.folder.write(f"{name}/{_MEMORY_AND_SWAP}", str(int(value)))

    def read(self, name: str, figures: Figures) -> None:
        """Fill in the figures of a group that this hierarchy knows."""
        if "memory" in self.controllers:
            self._read_memory(name, figures)
        if "pids" in self.controllers:
            self._read_pids(name, figures)
        if "cpuacct" in self.controllers:
            usage_ns = files.number_in(self.folder.read(f"{name}/cpuacct.usage"))
            figures["cpu_s"] = None if usage_ns is None else usage_ns / 1e9
        if "cpu" in self.controllers:
            stat = files.keyed_in(self.folder.read(f"{name}/cpu.stat"))
            throttled_ns = stat.get("throttled_time")
            figures["throttled_s"] = None if throttled_ns is None else throttled_ns / 1e9

    def open_group(self, name: str) -> int:
        """Return the descriptor of `tasks`, for writing `0`; the caller closes."""
        return self.folder.open(f"{name}/tasks", os.O_WRONLY)

    def is_populated(self, name: str) -> bool:
        """Tell whether a process is in this folder beside ours, or in a group below it."""
        return _is_populated(self.base, name)

    def _change_memory(self, name: str, value: str) -> None:
        """Keep memory <= memory and swap at every moment, or the kernel answers EINVAL."""
        paths = [f"{name}/{_MEMORY}"]
        if self._counts_swap:
            now = files.number_in(self.folder.read(paths[0]))
            raises = value == "-1" or now is None or int(value) > now
            paths.insert(0 if raises else 1, f"{name}/{_MEMORY_AND_SWAP}")
        for path in paths:
            self.folder.write(path, value)

    def _set_quota(self, name: str, quota: str) -> None:
        """Set the quota; one that is above an ancestor's is not needed.

        v1 refuses it with EINVAL (v2 takes it); the ancestor's, which is tighter, holds anyway,
        once the group has none of its own.
        """
        try:
            self.folder.write(f"{name}/{_QUOTA}", quota)
        except OSError as error:
            if error.errno != errno.EINVAL or quota == "-1":
                raise
            self.folder.write(f"{name}/{_QUOTA}", "-1")

    def _read_memory(self, name: str, figures: Figures) -> None:
        read = self.folder.read
        figures["memory_bytes"] = files.number_in(read(f"{name}/memory.usage_in_bytes"))
        figures["memory_peak_bytes"] = files.number_in(read(f"{name}/memory.max_usage_in_bytes"))
        counters = files.keyed_in(read(f"{name}/memory.oom_control"))
        figures["oom_kills"] = counters.get("oom_kill")  # since 4.13

    def _read_pids(self, name: str, figures: Figures) -> None:
        for key, file in (("pids", "pids.current"), ("pids_peak", "pids.peak")):
            count = files.number_in(self.folder.read(f"{name}/{file}"))
            figures[key] = None if count is None else max(0, count - self.init_pids)
        events = files.keyed_in(self.folder.read(f"{name}/pids.events"))
        figures["pids_max_hits"] = events.get("max")


def _is_populated(base: Folder, name: str) -> bool:
    if (base.read(f"{name}/cgroup.procs") or "").strip():
        return True
    return any(_is_populated(base, f"{name}/{child}") for child in files.folders_in(base, name))
