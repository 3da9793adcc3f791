"""`doctor` on the machine of the test: its lines, its JSON, its exit status."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from features import needs

from pytest_rootfs.cli.doctor import containers, processes
from pytest_rootfs.engine import Engine, EngineSettings
from pytest_rootfs.runtime.ids import find_ids

if TYPE_CHECKING:
    from conftest import Call

NAMES = [
    "python",
    "kernel",
    "environment",
    "seccomp",
    "user namespaces",
    "mounts",
    "mount calls",
    "network",
    "hostname",
    "/proc",
    "ids",
    "clone3",
    "openat2",
    "cores",
    "overlay",
    "overlay layers",
    "rw layer",
    "temporary files",
    "store",
    "cgroups",
    "systemd",
    "container",
]
KEYS = ["name", "state", "found", "consequence", "repair"]


@needs("userns")
@pytest.mark.slow
def test_host_that_can_run_containers(call: Call, store_dir: Path) -> None:
    done = call("doctor", "--json")

    checks = json.loads(done.out)
    assert done.status == 0
    assert [check["name"] for check in checks] == NAMES
    assert all(list(check) == KEYS for check in checks)
    assert {check["state"] for check in checks} <= {"ok", "degraded"}
    assert checks[-1]["found"].startswith("started in")


@needs("userns")
@pytest.mark.slow
def test_each_gap_has_consequence_and_repair(call: Call, store_dir: Path) -> None:
    checks = json.loads(call("doctor", "--json").out)

    assert [
        check["name"]
        for check in checks
        if (check["state"] == "ok") == bool(check["consequence"] and check["repair"])
    ] == []


@needs("userns")
@pytest.mark.slow
def test_lines_of_text(call: Call, store_dir: Path) -> None:
    done = call("doctor")

    lines = done.out.splitlines()
    named = [line[10:26].strip() for line in lines if line[:1] != " "]
    assert named == NAMES
    assert lines[0].startswith("ok        python ")
    assert f"{store_dir} on " in done.out


@pytest.mark.slow
def test_store_that_cannot_be_used(call: Call, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    done = call("doctor", "--json", "--store", str(tmp_path / "file"))

    *_, store, cgroups, systemd, container = json.loads(done.out)
    assert done.status == 1
    assert (store["name"], store["state"]) == ("store", "missing")
    assert {each["state"] for each in (cgroups, systemd, container)} == {"not tried"}


def test_help_names_the_keys(call: Call) -> None:
    done = call("doctor", "--help")

    assert done.status == 0
    assert ", ".join(KEYS[:-1]) in " ".join(done.out.split())


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    """Give an engine that has started nothing."""
    return Engine(EngineSettings(store=tmp_path / "store"), warn=lambda _: None)


def test_machine_without_systemd(engine: Engine, tmp_path: Path) -> None:
    check = containers.systemd(engine, str(tmp_path))

    assert (check.state, check.found) == ("ok", "is not what runs this machine; not needed")


@needs("ordinary user")
def test_user_with_a_bus(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    (tmp_path / "bus").touch()

    check = containers.systemd(engine, str(tmp_path), {"XDG_RUNTIME_DIR": str(tmp_path)})

    assert (check.state, check.found) == ("ok", f"the user's one may be asked at {tmp_path}/bus")


def test_ids_are_those_of_containers() -> None:
    check, found = processes.ids(), find_ids()

    assert (check.state == "ok") == (not found.gap)
    assert found.mode in check.found
    assert check.repair == found.gap.repair
