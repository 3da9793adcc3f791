"""`doctor`: what this host can do, each thing tried, each gap with its exact repair.

A line is `ok`, `degraded` (containers run, with less), `missing` (they do not) or `not tried`, for
what an earlier line makes impossible. The last line is the proof: a real container, started through
the engine.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from pytest_rootfs.cli import probes
from pytest_rootfs.cli.output import painted, print_json
from pytest_rootfs.cli.sessions import open_engine, store_root
from pytest_rootfs.cli.verbs import Verb, add_json
from pytest_rootfs.errors import RootfsError
from pytest_rootfs.settings import shown_size

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_rootfs.cli.probes import Trials
    from pytest_rootfs.engine import Engine

State = Literal["ok", "degraded", "missing", "not tried"]
_COLOURS = {"ok": "green", "degraded": "yellow", "missing": "red", "not tried": "yellow"}
_OUTER_REPAIR = {
    "docker": "docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined "
    "--security-opt systempaths=unconfined …, or docker run --privileged …",
    "podman": "podman run --security-opt unmask=ALL --security-opt seccomp=unconfined …",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line: a feature, its state, what was found; if not ok, what follows and the repair."""

    name: str
    state: State
    found: str
    consequence: str = ""
    repair: str = ""


def _doctor(args: argparse.Namespace) -> int:
    checks = []
    for check in examine(args):
        checks.append(check)
        if not args.json:
            _print(check)
    if args.json:
        print_json([asdict(check) for check in checks])
    return 1 if any(check.state == "missing" for check in checks) else 0


def _print(check: Check) -> None:
    state = painted(f"{check.state:<9}", _COLOURS[check.state])
    print(f"{state} {check.name:<18}  {check.found}")
    if check.consequence:
        print(f"{'':<30}{check.consequence}")
    if check.repair:
        print(f"{'':<30}repair: {check.repair}")


def examine(args: argparse.Namespace) -> Iterator[Check]:
    """Examine this host, the simplest requirement first."""
    yield _python()
    yield _kernel()
    if sys.platform != "linux":
        return
    trials = probes.try_namespaces()
    yield _user_namespaces(trials)
    yield _filter()
    yield _mounts(trials)
    yield _ids()
    yield _overlay(trials)
    yield _rw_layer(trials)
    yield _proc(trials)
    store = _store(store_root(args))
    yield store
    if store.state == "missing":
        yield from (_not_tried(name, "it needs a store") for name in ("cgroups", "container"))
        return
    with open_engine(args) as engine:
        yield _cgroups(engine)
        yield _container(engine)


def _not_tried(name: str, reason: str = "an earlier line makes it impossible") -> Check:
    return Check(name=name, state="not tried", found=reason)


def _python() -> Check:
    is_new = sys.version_info >= (3, 10)
    return Check(
        name="python",
        state="ok" if is_new else "missing",
        found=f"{platform.python_implementation()} {platform.python_version()}, {sys.executable}",
        repair="" if is_new else "install Python 3.10 or newer",
    )


def _kernel() -> Check:
    release = platform.release()
    found = f"{platform.system()} {release} {platform.machine()}"
    if sys.platform != "linux":
        return Check(
            name="kernel",
            state="missing",
            found=found,
            consequence="containers are a feature of the Linux kernel; container tests are skipped",
            repair="run the tests on Linux, or in a Linux virtual machine",
        )
    if _version(release) < (5, 11):
        return Check(
            name="kernel",
            state="missing",
            found=found,
            consequence="before 5.11 there is no overlay in a user namespace",
            repair="install a kernel of 5.11 or newer",
        )
    return Check(name="kernel", state="ok", found=found)


def _user_namespaces(trials: Trials) -> Check:
    failed = trials["user namespace"]
    if not failed:
        return Check(name="user namespaces", state="ok", found="can be made")
    return Check(
        name="user namespaces",
        state="missing",
        found=failed,
        consequence="no container can be started",
        repair=_namespace_repair(),
    )


def _namespace_repair() -> str:
    if probes.kernel_setting("kernel/unprivileged_userns_clone") == "0" and os.geteuid() != 0:
        return "sudo sysctl -w kernel.unprivileged_userns_clone=1"
    if probes.kernel_setting("user/max_user_namespaces") == "0":
        return "sudo sysctl -w user.max_user_namespaces=15000"
    return _OUTER_REPAIR.get(probes.outer_container(), "run as root, or allow user namespaces")


def _filter() -> Check:
    outer = probes.outer_container()
    inside = f"inside {outer}" if outer else "not inside another container"
    if not probes.seccomp_mode():
        return Check(name="seccomp", state="ok", found=f"no filter on this process, {inside}")
    return Check(
        name="seccomp",
        state="ok",
        found=f"a filter is on this process, {inside}; what it refuses shows in the other lines",
    )


def _mounts(trials: Trials) -> Check:
    restricted = probes.kernel_setting("kernel/apparmor_restrict_unprivileged_userns") == "1"
    if (failed := trials.get("mount")) is None:
        return _not_tried("mounts")
    if not failed:
        note = "; AppArmor's restriction is on, and does not apply here" if restricted else ""
        return Check(name="mounts", state="ok", found=f"allowed in a user namespace{note}")
    repair = _OUTER_REPAIR.get(probes.outer_container(), "run as root")
    if restricted:  # Ubuntu 23.10 and later: the namespace is made, but has no capabilities
        failed += "; kernel.apparmor_restrict_unprivileged_userns=1"
        repair = "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    return Check(
        name="mounts",
        state="missing",
        found=failed,
        consequence="no root file system can be put together",
        repair=repair,
    )


def _ids() -> Check:
    from pytest_rootfs.runtime.ids import find_ids  # noqa: PLC0415  for this verb only

    ids = find_ids()
    first, count = ids.uid_map[0][1], sum(line[2] for line in ids.uid_map)
    found = f"{ids.mode}; container root is uid {first} here, {count} ids"
    if not ids.gap:
        return Check(name="ids", state="ok", found=found)
    reason, repair = ids.gap.reason, ids.gap.repair
    return Check(
        name="ids",
        state="degraded",
        found=f"{ids.mode}: {reason}",
        consequence="containers have only a root user; user=, chown and packages with other owners "
        "fail",
        repair=repair,
    )


def _overlay(trials: Trials) -> Check:
    if (failed := trials.get("overlay")) is None:
        return _not_tried("overlay")
    if not failed:
        return Check(name="overlay", state="ok", found="can be mounted in a user namespace")
    return Check(
        name="overlay",
        state="missing",
        found=failed,
        consequence="layers cannot be stacked",
        repair="sudo modprobe overlay",
    )


def _rw_layer(trials: Trials) -> Check:
    if (failed := trials.get("overlay on tmpfs")) is None:
        return _not_tried("rw layer")
    if not failed:
        return Check(name="rw layer", state="ok", found="on tmpfs, bounded by the disk limit")
    return Check(
        name="rw layer",
        state="degraded",
        found=f"tmpfs cannot hold it: {failed}",
        consequence="it is written to the store's disk instead, which is slower",
        repair="use a kernel of 6.6 or newer",
    )


def _proc(trials: Trials) -> Check:
    if (failed := trials.get("proc")) is None:
        return _not_tried("/proc")
    if not failed:
        return Check(name="/proc", state="ok", found="can be mounted in a new pid namespace")
    return Check(
        name="/proc",
        state="missing",
        found=f"{failed}: parts of the /proc around us are masked",
        consequence="containers would see the processes of the host",
        repair=_OUTER_REPAIR.get(probes.outer_container(), "unmount what lies over /proc/*"),
    )


def _store(root: Path) -> Check:
    from pytest_rootfs.store.store import Store  # noqa: PLC0415  for this verb only

    try:
        Store.open(root).close()
    except RootfsError as error:
        return Check(name="store", state="missing", found=_one_line(error), repair=error.hint)
    free = shutil.disk_usage(root).free
    found = f"{root} on {probes.filesystem_of(root)}, {shown_size(free)} free"
    if free > 1 << 30:
        return Check(name="store", state="ok", found=found)
    return Check(
        name="store",
        state="degraded",
        found=found,
        consequence="images may not fit",
        repair="pytest-rootfs gc, or --store on another disk",
    )


def _cgroups(engine: Engine) -> Check:
    try:
        session = engine.session
    except RootfsError:
        return _not_tried("cgroups", "no session of containers starts, see the last line")
    absent = [name for name, is_usable in session.controllers.items() if not is_usable]
    usable = [name for name in session.controllers if name not in absent]
    found = f"{session.cgroup_kind}, usable controllers: {' '.join(usable) or 'none'}"
    if not absent:
        return Check(name="cgroups", state="ok", found=found)
    reason, _, repair = session.limit_reasons.get(absent[0], "").partition("; ")
    return Check(
        name="cgroups",
        state="degraded",
        found=f"{found}; {reason}",
        consequence=f"limits on {', '.join(absent)} are refused (or ignored with "
        "--rootfs-limits=best-effort)",
        repair=repair,
    )


def _container(engine: Engine) -> Check:
    """Start a container of an image without any file, write into it and read it back."""
    try:
        engine.start("scratch").close()  # the first one starts the session's processes, too
        begin = time.perf_counter()
        with engine.start("scratch", name="doctor") as container:
            started_ms = (time.perf_counter() - begin) * 1000
            container.path("/proof").write_text("ok")
            container.path("/proof").read_text()
    except RootfsError as error:
        return Check(name="container", state="missing", found=_one_line(error), repair=error.hint)
    except OSError as error:
        return Check(name="container", state="missing", found=f"its files: {error}")
    return Check(name="container", state="ok", found=f"started in {started_ms:.1f} ms")


def _one_line(error: RootfsError) -> str:
    return "; ".join(part.strip() for part in (error.what, *error.detail.splitlines()[-1:]) if part)


def _version(release: str) -> tuple[int, int]:
    major, minor, *_ = release.partition("-")[0].split(".")
    return int(major), int(minor)


VERBS = {
    "doctor": Verb(
        description="Tell what this host can do: one line a feature, `ok`, `degraded`, `missing` "
        "or `not tried`,\nwith the exact repair. Exits with 1 when containers cannot run.",
        configure=add_json,
        act=_doctor,
    ),
}
