"""Which limits of a container are enforced, and what becomes of those that this host cannot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pytest_rootfs.errors import LimitUnavailable
from pytest_rootfs.options import LimitsPolicy
from pytest_rootfs.runtime.session import Session
from pytest_rootfs.runtime.spec import ContainerOptions, Limits

_CONTROLLERS = {"memory": "memory", "cpus": "cpu", "pids": "pids", "disk": "disk"}
"""What enforces which limit."""


class Enforcement:
    """The policy of one engine: a limit that cannot be enforced is refused, told once, or ignored.

    One that nobody asked for, as every container has some, is ignored in any case.
    """

    def __init__(self, policy: LimitsPolicy, warn: Callable[[str], None]) -> None:
        self._policy = policy
        self._warn = warn
        self._warned: set[str] = set()

    def limits_of(self, session: Session, options: ContainerOptions) -> Limits:
        """Return the limits that a container starts with; raises LimitUnavailable."""
        limits = options.limits
        missing = [
            key
            for key, controller in _CONTROLLERS.items()
            if self._policy == "off"
            or (getattr(limits, key) is not None and not session.controllers[controller])
        ]
        for key in missing:
            if getattr(options, key) is not None and self._policy != "off":
                self._refuse(session, key, getattr(options, key))
        return replace(limits, **dict.fromkeys(missing))

    def covers(self, session: Session, key: str, value: float | None) -> bool:
        """Tell whether a limit is to be changed, None lifts it; raises LimitUnavailable."""
        if self._policy == "off":
            return False
        can = session.controllers[_CONTROLLERS[key]]
        if not can and value is not None:
            self._refuse(session, key, value)
        return can

    def _refuse(self, session: Session, key: str, value: object) -> None:
        controller = _CONTROLLERS[key]
        reason = session.limit_reasons.get(controller, f"no {controller} controller here")
        if self._policy == "strict":
            raise LimitUnavailable(
                f"the limit {key}={value} cannot be enforced on this host",
                detail=reason,
                hint="or run without it: --rootfs-limits best-effort",
            )
        if key not in self._warned:
            self._warned.add(key)
            self._warn(f"the limit {key} is not enforced on this host: {reason}")
