"""Lines about the kernel and what it lets us make: namespaces, mounts, /proc."""

from __future__ import annotations

import platform
import sys

from pytest_rootfs.cli.doctor.checks import Check, Seen, not_tried
from pytest_rootfs.runtime import host_reasons
from pytest_rootfs.runtime.surroundings import APPARMOR, Surroundings, refusal


def python() -> Check:
    """Tell which Python this is."""
    is_new = sys.version_info >= (3, 10)
    return Check(
        name="python",
        state="ok" if is_new else "missing",
        found=f"{platform.python_implementation()} {platform.python_version()}, {sys.executable}",
        consequence="" if is_new else "pytest-rootfs does not run",
        repair="" if is_new else "install Python 3.10 or newer",
    )


def not_linux() -> Check:
    """Tell that this system has no containers."""
    return Check(
        name="kernel",
        state="missing",
        found=f"{platform.system()} {platform.release()} {platform.machine()}",
        consequence="containers are a feature of the Linux kernel; container tests are skipped",
        repair="run the tests on Linux, or in a Linux virtual machine",
    )


def kernel(around: Surroundings) -> Check:
    """Tell whether the kernel is new enough: overlays in user namespaces came with 5.11."""
    found = f"Linux {around.release} {platform.machine()}"
    gap = host_reasons.old_kernel(around)
    if not gap:
        return Check(name="kernel", state="ok", found=found)
    return Check(
        name="kernel",
        state="missing",
        found=found,
        consequence=gap.reason,
        repair=gap.repair,
    )


def environment(around: Surroundings) -> Check:
    """Tell where this process runs; what is refused there shows in the other lines."""
    return Check(name="environment", state="ok", found=around.place)


def seccomp(around: Surroundings) -> Check:
    """Tell whether system calls are filtered."""
    found = "no filter on this process"
    if around.is_filtered:
        found = "a filter is on this process; what it refuses shows in the other lines"
    return Check(name="seccomp", state="ok", found=found)


def user_namespaces(seen: Seen) -> Check:
    """Tell whether a user namespace can be made, and its ids be mapped."""
    refused = seen.trials["user namespace"]
    if refused is None:
        return Check(name="user namespaces", state="ok", found="can be made")
    gap = refusal(refused.number, seen.around)
    return Check(
        name="user namespaces",
        state="missing",
        found=f"{gap.reason}: {refused.text}",
        consequence="no container can be started",
        repair=gap.repair,
    )


def mounts(seen: Seen) -> Check:
    """Tell whether a user namespace may mount; AppArmor makes one that may nothing."""
    if "mount" not in seen.trials:
        return not_tried("mounts")
    refused = seen.trials["mount"]
    if refused is None:
        is_restricted = seen.around.settings.get(APPARMOR) == "1"
        note = "; AppArmor's restriction is on, and does not apply here" if is_restricted else ""
        return Check(name="mounts", state="ok", found=f"allowed in a user namespace{note}")
    gap = refusal(refused.number, seen.around)
    return Check(
        name="mounts",
        state="missing",
        found=f"{gap.reason}: {refused.text}",
        consequence="no root file system can be put together",
        repair=gap.repair,
    )


def mount_calls(seen: Seen) -> Check:
    """Tell whether fsopen(2) and its family may be called."""
    name = "mount calls"
    if name not in seen.trials:
        return not_tried(name)
    refused = seen.trials[name]
    if refused is None:
        return Check(name=name, state="ok", found="fsopen, open_tree and move_mount may be called")
    gap = host_reasons.explain(refused.error, seen.around)
    return Check(
        name=name,
        state="missing",
        found=f"{gap.reason}: {refused.text}",
        consequence="root file systems are put together without places, which needs them",
        repair=gap.repair,
    )


def network(seen: Seen) -> Check:
    """Tell whether a container can have a network of its own."""
    if "network namespace" not in seen.trials:
        return not_tried("network")
    refused = seen.trials["network namespace"]
    if refused is None:
        return Check(name="network", state="ok", found="containers have one of their own")
    return Check(
        name="network",
        state="missing",
        found=f"no network namespace can be made: {refused.text}",
        consequence='only containers with network="host" start',
        repair=seen.around.outer_repair or "sudo sysctl -w user.max_net_namespaces=15000",
    )


def hostname(seen: Seen) -> Check:
    """Tell whether a container can have a name of its own."""
    if "hostname" not in seen.trials:
        return not_tried("hostname")
    refused = seen.trials["hostname"]
    if refused is None:
        return Check(name="hostname", state="ok", found="containers have one of their own")
    gap = host_reasons.absent_call("sethostname", seen.around)
    return Check(
        name="hostname",
        state="missing",
        found=f"{gap.reason}: {refused.text}",
        consequence="no container is started, as it would have the name of the host",
        repair=gap.repair,
    )


def proc(seen: Seen) -> Check:
    """Tell whether a fresh /proc can be mounted: not where the one around us is masked."""
    if "proc" not in seen.trials:
        return not_tried("/proc")
    refused = seen.trials["proc"]
    if refused is None:
        return Check(name="/proc", state="ok", found="can be mounted in a new pid namespace")
    gap = host_reasons.masked_proc(seen.around)
    return Check(
        name="/proc",
        state="missing",
        found=f"{gap.reason}: {refused.text}",
        consequence="containers would see the processes of the host, so none is started",
        repair=gap.repair,
    )
