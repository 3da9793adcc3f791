"""`doctor`: what this host can do, each thing tried, each gap with its exact repair.

A line is `ok`, `degraded` (containers run, with less), `missing` (they do not) or `not tried`, for
what an earlier line makes impossible. The last line is the proof: a real container, started through
the engine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict

from pytest_rootfs.cli.doctor.checks import Check, Seen, not_tried
from pytest_rootfs.cli.output import painted, print_json
from pytest_rootfs.cli.verbs import Verb, add_json

_COLOURS = {"ok": "green", "degraded": "yellow", "missing": "red", "not tried": "yellow"}


def _doctor(args: argparse.Namespace) -> int:
    checks = []
    for check in _examine(args):
        checks.append(check)
        if not args.json:
            _print(check)
    if args.json:
        print_json([asdict(check) for check in checks])
    return 1 if any(check.state == "missing" for check in checks) else 0


def _print(check: Check) -> None:
    state = painted(f"{check.state:<9}", _COLOURS[check.state])
    print(f"{state} {check.name:<16}  {check.found}")
    if check.consequence:
        print(f"{'':<28}{check.consequence}")
    if check.repair:
        print(f"{'':<28}repair: {check.repair}")


def _examine(args: argparse.Namespace) -> Iterator[Check]:
    """Examine this host, the simplest requirement first."""
    from pytest_rootfs.cli.doctor import containers, namespaces, storage  # noqa: PLC0415  as below
    from pytest_rootfs.cli.sessions import open_engine, store_root  # noqa: PLC0415  Linux only

    yield namespaces.python()
    if sys.platform != "linux":
        yield namespaces.not_linux()
        return
    can_run = True
    for check in _examine_host():
        can_run = can_run and check.state != "missing"
        yield check
    store = storage.store(store_root(args))
    yield store
    if store.state == "missing" or not can_run:
        yield from (not_tried(name) for name in containers.NAMES)
        return
    with open_engine(args) as engine:
        yield containers.cgroups(engine)
        yield containers.systemd(engine)
        yield containers.container(engine)


def _examine_host() -> Iterator[Check]:
    from pytest_rootfs.cli.doctor import namespaces, probes, processes, storage  # noqa: PLC0415
    from pytest_rootfs.runtime.surroundings import Surroundings  # noqa: PLC0415  Linux only

    around = Surroundings.read()
    yield namespaces.kernel(around)
    yield namespaces.environment(around)
    yield namespaces.seccomp(around)
    seen = Seen(around=around, trials=probes.try_all())
    yield namespaces.user_namespaces(seen)
    yield namespaces.mounts(seen)
    yield namespaces.mount_calls(seen)
    yield namespaces.network(seen)
    yield namespaces.hostname(seen)
    yield namespaces.proc(seen)
    yield processes.ids()
    yield processes.clone3(seen)
    yield processes.openat2(seen)
    yield processes.cores()
    yield storage.overlay(seen)
    yield storage.overlay_layers(seen)
    yield storage.rw_layer(seen)
    yield storage.temporary_files()


VERBS = {
    "doctor": Verb(
        description="Tell what this host can do: one line a feature, `ok`, `degraded` (containers "
        "run, with less),\n`missing` (they do not) or `not tried` (an earlier line makes it "
        "impossible), with the\nconsequence and the exact repair. Exits with 1 when containers "
        "cannot run.\n\n--json prints a list of objects with the keys name, state, found, "
        "consequence and repair,\nall of them texts, the last two empty where there is nothing "
        "to say.",
        configure=add_json,
        act=_doctor,
        examples=("doctor", "doctor --json"),
    ),
}
