"""Which limits of a container have stopped something, and since when."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pytest_rootfs import settings
from pytest_rootfs.errors import shown
from pytest_rootfs.runtime.agent import Agent
from pytest_rootfs.runtime.records import CommandRecord
from pytest_rootfs.runtime.rw_folders import files_of
from pytest_rootfs.runtime.spec import SHM_BYTES, ContainerOptions, Limits
from pytest_rootfs.runtime.stats import Stats

NOTED_THROTTLING_S = 0.1
PEAK_MAY_MISS = 2
"""Forks at the same time on several processors may leave the kernel's peak below what it was."""

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
    """The limits in force, and the counters at the last look.

    `full_spaces` says, a sentence each, which other file systems have no room left.
    """

    def __init__(self, limits: Limits, full_spaces: Callable[[], list[str]] = list) -> None:
        self._limits = limits
        self._full_spaces = full_spaces
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
            most = "" if self._limits.pids is None else f" of {self._limits.pids}"
            why = self._other_pids_limit(stats) or f"over its limit{most} (pids=…)"
            reasons.append(f"out of processes: {why}")
        if used_up := self._used_up(status):
            reasons.append(f"out of disk space: over its limit of {used_up} (disk=…)")
        reasons += [f"out of space: {text}" for text in self._full_spaces()]
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
            most = "the limit of then" if limits.pids is None else limits.pids
            why = self._other_pids_limit(stats) or f"to go over {most}"
            hit.append(f"pids: refused {stats.pids_max_hits} time(s) {why}")
        if held_back := self._held_back(stats.throttled_s or 0.0):
            hit.append(f"cpus: {held_back}")
        if used_up := self._used_up(status):
            hit.append(f"disk: the rw layer is full at {used_up}")
        hit += [f"tmpfs: {text}" for text in self._full_spaces()]
        hit.extend(
            f"timeout: {shown(record.argv)} was killed after {record.duration_s:.1f} s"
            for record in records
            if record.timed_out and record.duration_s is not None
        )
        return hit

    def _held_back(self, throttled_s: float) -> str:
        if throttled_s < NOTED_THROTTLING_S:
            return ""
        cores = "" if self._limits.cpus is None else f" of {self._limits.cpus:g} core(s) (cpus=…)"
        return f"the processor limit{cores} held the processes back for {throttled_s:.1f} s"

    def _used_up(self, status: Status) -> str:
        if self._limits.disk is None:
            return ""
        return _used_up(self._limits.disk, status["disk_free_bytes"], status["disk_free_files"])

    def _other_pids_limit(self, stats: Stats) -> str:
        """Say that another limit was hit than the one in force, "" if it was that one."""
        limit, peak = self._limits.pids, stats.pids_peak
        if limit is None or peak is None or peak + PEAK_MAY_MISS >= limit:
            return ""
        return (
            f"at {peak} processes, below its limit of {limit}: that was lower then, or a control "
            "group above the container has a lower one (pids.max)"
        )

    def _oom_reason(self) -> str:
        if self._limits.memory is None:
            return "out of memory: the kernel killed a process"
        size = settings.shown_size(self._limits.memory)
        return f"out of memory: over its limit of {size} (memory=…), the kernel killed a process"


def _used_up(size_bytes: int, free_bytes: int, free_files: int) -> str:
    """Say what a tmpfs of a size has no more of, bytes or files; "" if it has room."""
    if free_bytes == 0:
        return settings.shown_size(size_bytes)
    return f"{files_of(size_bytes)} files" if free_files == 0 else ""


def full_spaces(agent: Agent, options: ContainerOptions) -> list[str]:
    """Say which tmpfs of a container have no room left; of a dead one there is nothing to say."""
    full: list[str] = []
    for path, size_bytes in _tmpfs_sizes(options).items():
        flags = os.O_RDONLY | os.O_DIRECTORY
        for fd in agent.given({"op": "open", "path": path, "flags": flags, "mode": 0}):
            space = os.fstatvfs(fd)
            os.close(fd)
            if used_up := _used_up(size_bytes, space.f_bavail, space.f_favail):
                full.append(f"{path} is full at {used_up}")
    return full


def _tmpfs_sizes(options: ContainerOptions) -> dict[str, int]:
    sizes = {tmpfs.target: tmpfs.size_bytes for tmpfs in options.tmpfs or ()}
    return {**sizes, "/dev/shm": SHM_BYTES}


def space_note(limits: Limits, options: ContainerOptions, path: str) -> str:
    """Say which limit a path is under whose file system is full."""
    for target, size_bytes in _tmpfs_sizes(options).items():
        if f"{path}/".startswith(f"{target.rstrip('/')}/"):
            return f"limit {settings.shown_size(size_bytes)} of tmpfs {target}"
    if any(f"{path}/".startswith(f"{mount.target.rstrip('/')}/") for mount in options.mounts or ()):
        return "of the host"
    if limits.disk is None:
        return "of the host"
    return f"limit disk={settings.shown_size(limits.disk)}"
