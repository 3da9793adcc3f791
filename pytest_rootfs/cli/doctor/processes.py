"""Lines about starting processes: ids, system calls that have a slower stand-in, cores."""

from __future__ import annotations

import os

from pytest_rootfs.cli.doctor.checks import Check, Seen
from pytest_rootfs.runtime import host_reasons

MAPPED_CONSEQUENCE = "user=, chown and packages with other owners fail"


def ids() -> Check:
    """Tell which ids containers have."""
    from pytest_rootfs.runtime.ids import find_ids  # noqa: PLC0415  for this verb only

    found = find_ids()
    if not found.gap:
        first = found.uid_map[0][1]
        what = f"{found.mode}; container root is uid {first} here, {found.count} ids"
        return Check(name="ids", state="ok", found=what)
    consequence = f"containers have only a root user; {MAPPED_CONSEQUENCE}"
    if not found.is_single:
        consequence = f"for the others {MAPPED_CONSEQUENCE}"
    return Check(
        name="ids",
        state="degraded",
        found=f"{found.mode}: {found.gap.reason}",
        consequence=consequence,
        repair=found.gap.repair,
    )


def clone3(seen: Seen) -> Check:
    """Tell whether clone3(2) may be called; older profiles of seccomp do not know it."""
    return _call(seen, "clone3", "clone stands in: commands start more slowly")


def openat2(seen: Seen) -> Check:
    """Tell whether openat2(2) may be called."""
    return _call(seen, "openat2", "paths in containers are walked component by component")


def _call(seen: Seen, name: str, consequence: str) -> Check:
    refused = seen.trials[name]
    if refused is None:
        return Check(name=name, state="ok", found="may be called")
    gap = host_reasons.absent_call(name, seen.around)
    return Check(
        name=name,
        state="degraded",
        found=f"{gap.reason}: {refused.text}",
        consequence=consequence,
        repair=gap.repair,
    )


def cores() -> Check:
    """Tell whether the next container can be made while a test runs."""
    number = len(os.sched_getaffinity(0))
    if number > 1:
        return Check(name="cores", state="ok", found=f"{number}")
    return Check(
        name="cores",
        state="degraded",
        found="1",
        consequence="no container is made ahead while a test runs, so each takes its whole time",
        repair="give pytest a second core (taskset, docker run --cpuset-cpus, the machine's size)",
    )
