"""The limits of a container while it lives: they can be read, compared and changed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pytest_rootfs.runtime.spec import Limits, check_limit


class LiveLimits(Limits):
    """Limits that change the container when one is assigned; None lifts it.

    A value is checked as the mark's are: ValueError names the key. Raises LimitUnavailable for what
    this host cannot enforce, ContainerError for less memory or disk than is in use, ContainerDied
    once the container is closed; the limit is then what it was.
    """

    __slots__ = ("_change", "_changing", "_now")

    def __init__(
        self,
        now: Limits,
        change: Callable[[str, Any], None],  # Any: a number or None, as the key has it
    ) -> None:
        """Begin with the limits that were asked for; `change` makes another one real."""
        self._now = now
        self._change = change
        self._changing = threading.Lock()

    __setattr__ = object.__setattr__  # the limits of a spec are frozen, these are not

    @property
    def memory(self) -> int | None:
        """Bytes of memory, files of the rw layer included."""
        return self._now.memory

    @memory.setter
    def memory(self, value: int | str | None) -> None:
        self._set("memory", value)

    @property
    def cpus(self) -> float | None:
        """Processor cores; 0.5 is half of one."""
        return self._now.cpus

    @cpus.setter
    def cpus(self, value: float | str | None) -> None:
        self._set("cpus", value)

    @property
    def pids(self) -> int | None:
        """Processes and threads."""
        return self._now.pids

    @pids.setter
    def pids(self, value: int | str | None) -> None:
        self._set("pids", value)

    @property
    def disk(self) -> int | None:
        """Bytes of the rw layer."""
        return self._now.disk

    @disk.setter
    def disk(self, value: int | str | None) -> None:
        self._set("disk", value)

    def __eq__(self, other: object) -> bool:
        """Compare with limits of either kind."""
        return self._now == (other._now if isinstance(other, LiveLimits) else other)

    def __hash__(self) -> int:
        return hash(self._now)

    def __repr__(self) -> str:
        return repr(self._now)

    def __reduce__(self) -> tuple[Any, ...]:  # Any: of pickle
        """Copy and pickle as what the limits are now."""
        return replace, (self._now,)

    def _set(self, key: str, value: object) -> None:
        __tracebackhide__ = True
        with self._changing:
            checked = None if value is None else check_limit(key, value)
            self._change(key, checked)
            self._now = replace(self._now, **{key: checked})
