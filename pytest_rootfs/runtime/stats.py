"""The figures of a container."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """What a container has used so far; None where this host has no figure.

    Bytes, seconds and counts. Memory includes files in the rw layer, which lives in memory.
    Sources: cgroup-v2.rst, "memory.peak", "memory.events", "cpu.stat", "pids.events", "io.stat",
    and their cgroup v1 counterparts.
    """

    memory_bytes: int | None = None
    memory_peak_bytes: int | None = None
    cpu_s: float | None = None
    pids: int | None = None
    pids_peak: int | None = None
    oom_kills: int | None = None
    throttled_s: float | None = None
    read_bytes: int | None = None
    written_bytes: int | None = None
    pids_max_hits: int | None = None
