"""Which limits of a container have stopped something, and since when."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pytest_rootfs import settings
from pytest_rootfs.errors import shown
from pytest_rootfs.runtime.records import CommandRecord
from pytest_rootfs.runtime.spec import ContainerOptions, Limits
from pytest_rootfs.runtime.stats import Stats

NOTED_THROTTLING_S = 0.1

Status = dict[str, Any]  # Any: JSON, as the spawner answers


@dataclass(frozen=True, slots=True, kw_only=True)
class Hits:
    """What was hit since the last look: texts for errors, "" for nothing.

    `reason` is why a command may have failed, `held_back` why it may have taken too long.
    """

    oom_killed: bool = False
    reason: str = ""
    held_back: str = ""


class LimitWatch:
    """The limits in force, and the counters at the last look."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._oom_kills = 0
        self._pids_max_hits = 0
        self._throttled_s = 0.0

    def look(self, status: Status) -> Hits:
        """Return what was hit since the last look."""
        stats = Stats(**status["stats"])
        oom_kills, pids_max_hits = stats.oom_kills or 0, stats.pids_max_hits or 0
        oom_killed = oom_kills > self._oom_kills
        reasons = [self._oom_reason()] if oom_killed else []
        if pids_max_hits > self._pids_max_hits:
            reasons.append(f"out of processes: over its limit of {self._limits.pids} (pids=…)")
        if self._is_full(status):
            reasons.append(f"out of disk space: over its limit of {self.disk_shown} (disk=…)")
        throttled_s = stats.throttled_s or 0.0
        held_back = self._held_back(throttled_s - self._throttled_s)
        self._oom_kills, self._pids_max_hits = oom_kills, pids_max_hits
        self._throttled_s = throttled_s
        return Hits(oom_killed=oom_killed, reason="; ".join(reasons), held_back=held_back)

    def describe(self, status: Status, records: Iterable[CommandRecord]) -> list[str]:
        """Say what was hit in all, a sentence each."""
        hit = []
        stats, limits = Stats(**status["stats"]), self._limits
        if stats.oom_kills:
            size = "" if limits.memory is None else f" over {settings.shown_size(limits.memory)}"
            hit.append(f"memory: the kernel killed {stats.oom_kills} process(es){size}")
        if stats.pids_max_hits:
            hit.append(f"pids: refused {stats.pids_max_hits} time(s) to go over {limits.pids}")
        if held_back := self._held_back(stats.throttled_s or 0.0):
            hit.append(f"cpus: {held_back}")
        if self._is_full(status):
            hit.append(f"disk: the rw layer is full at {self.disk_shown}")
        hit.extend(
            f"timeout: {shown(record.argv)} was killed after {record.duration_s:.1f} s"
            for record in records
            if record.timed_out and record.duration_s is not None
        )
        return hit

    @property
    def disk_shown(self) -> str:
        """The size of the rw layer."""
        return "none" if self._limits.disk is None else settings.shown_size(self._limits.disk)

    def _held_back(self, throttled_s: float) -> str:
        if throttled_s < NOTED_THROTTLING_S:
            return ""
        cores = "" if self._limits.cpus is None else f" of {self._limits.cpus:g} core(s) (cpus=…)"
        return f"the processor limit{cores} held the processes back for {throttled_s:.1f} s"

    def _is_full(self, status: Status) -> bool:
        return self._limits.disk is not None and status["disk_free_bytes"] == 0

    def _oom_reason(self) -> str:
        if self._limits.memory is None:
            return "out of memory: the kernel killed a process"
        size = settings.shown_size(self._limits.memory)
        return f"out of memory: over its limit of {size} (memory=…), the kernel killed a process"


def space_note(limits: Limits, options: ContainerOptions, path: str) -> str:
    """Say which limit a path is under whose file system is full."""
    for tmpfs in options.tmpfs or ():
        if f"{path}/".startswith(f"{tmpfs.target.rstrip('/')}/"):
            return f"limit {settings.shown_size(tmpfs.size_bytes)} of tmpfs {tmpfs.target}"
    if any(f"{path}/".startswith(f"{mount.target.rstrip('/')}/") for mount in options.mounts or ()):
        return "of the host"
    if limits.disk is None:
        return "of the host"
    return f"limit disk={settings.shown_size(limits.disk)}"
