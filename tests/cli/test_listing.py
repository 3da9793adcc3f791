"""`failures`, `show`, `rm`: what is kept, without starting anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_rootfs.failure_record import Failure, KeptContainer, KeptImage
from pytest_rootfs.failures import Failures
from pytest_rootfs.store.store import Store

Make = Callable[..., Failure]
Call = Callable[..., Any]  # Any: a Result of conftest.py


@pytest.fixture
def make(store_dir: Path) -> Make:
    def publish(failure_id: str, nodeid: str, *, rootdir: str = "") -> Failure:
        image = KeptImage(name="minimal", digest="sha256:" + "1" * 64)
        container = KeptContainer(
            name="rootfs",
            image=image,
            user="app",
            workdir="/srv",
            limits={"memory": 64 << 20, "pids": 1024, "cpus": None, "timeout": 300.0},
            limits_hit=("over memory: 64.0 MiB",),
            stats={"memory_peak_bytes": 1 << 20, "cpu_s": 0.25, "pids": 3, "read_bytes": None},
            changes=(
                {"path": "/etc/app\x1b[31m.conf", "kind": "added", "type": "file"},
                {"path": "/etc/motd", "kind": "deleted", "type": "file"},
            ),
            commands=(
                {
                    "argv": ["sh", "-c", "exit 3"],
                    "returncode": 3,
                    "duration_s": 0.01,
                    "output_tail": "oops\n",
                    "timed_out": False,
                },
                {"argv": ["kill", "-9", "7"], "returncode": -9, "duration_s": 0.01},
            ),
            processes=({"pid": 7, "user": 1000, "argv": ["sleep", "9"], "state": "S"},),
            manifest="sha256:" + "3" * 64,
            size=4096,
        )
        failure = Failure(
            id=failure_id,
            nodeid=nodeid,
            when="call",
            outcome="failed",
            time="2026-01-01T00:00:00.000+00:00",
            message="assert 1 == 2",
            rootdir=rootdir or str(Path.cwd()),
            containers=(container,),
        )
        with Store.open(store_dir) as store:
            Failures(store).publish(failure)
        return failure

    return publish


def test_failures_of_the_project_are_listed(call: Call, make: Make) -> None:
    make("aaaaaa", "a.py::test_one")
    make("bbbbbb", "b.py::test_two", rootdir="/other")

    result = call("failures")

    assert result.status == 0
    heading, row = result.out.splitlines()
    assert heading.split() == ["ID", "TEST", "WHEN", "CHANGES", "SIZE", "TIME"]
    assert row.split()[:5] == ["aaaaaa", "a.py::test_one", "call", "2", "4.0"]
    assert "bbbbbb" in call("failures", "--all").out


def test_failures_as_json(call: Call, make: Make) -> None:
    make("aaaaaa", "a.py::test_one")

    (listed,) = json.loads(call("failures", "--json").out)

    assert (listed["id"], listed["changes"], listed["image"]["name"]) == ("aaaaaa", 2, "minimal")


def test_nothing_kept_is_an_empty_list(call: Call, store_dir: Path) -> None:
    result = call("failures")

    assert (result.status, result.out) == (0, "no failures are kept here\n")
    assert call("failures", "--json").out == "[]\n"


def test_show_tells_what_happened(call: Call, make: Make) -> None:
    make("aaaaaa", "a.py::test_one")

    result = call("show", "last")

    assert result.status == 0
    for part in (
        "aaaaaa  a.py::test_one",
        "failed in call",
        "assert 1 == 2",
        "minimal sha256:1111",
        "app in /srv",
        "memory 64.0 MiB, pids 1024, timeout 300 s",
        "over memory: 64.0 MiB",
        "memory peak 1.0 MiB, cpu 0.25 s, pids 3",
        "$ sh -c 'exit 3'",
        "exit status 3",
        "| oops",
        "killed by SIGKILL",
        "sleep 9",
        "changes (2)",
        "A /etc/app\\x1b[31m.conf",
        "D /etc/motd",
        "pytest-rootfs shell aaaaaa",
    ):
        assert part in result.out


def test_show_as_json_is_the_record(call: Call, make: Make) -> None:
    failure = make("aaaaaa", "a.py::test_one")

    shown = json.loads(call("show", "aaaaaa", "--json").out)

    assert Failure.from_json(shown) == failure


def test_unknown_failure_is_not_found(call: Call, make: Make) -> None:
    make("aaaaaa", "a.py::test_one")

    result = call("show", "aaaaab")

    assert result.status == 3
    assert result.err.startswith("error: no kept failure is called 'aaaaab'\nnear matches:\n")
    assert "aaaaaa  a.py::test_one" in result.err
    assert "\nhint: " in result.err


def test_ambiguous_failure_is_wrong_usage(call: Call, make: Make) -> None:
    make("aaaaaa", "a.py::test_one")
    make("bbbbbb", "a.py::test_two")

    result = call("show", "test_")

    assert result.status == 2
    assert "aaaaaa  a.py::test_one" in result.err
    assert "bbbbbb  a.py::test_two" in result.err


def test_removed_failures_are_named(call: Call, make: Make) -> None:
    make("aaaaaa", "a.py::test_one")
    make("bbbbbb", "a.py::test_two")

    result = call("rm", "last", "last")

    assert result.status == 0
    assert len(result.out.split()) == 1
    assert len(call("failures").out.splitlines()) == 2


def test_unknown_id_removes_nothing(call: Call, make: Make) -> None:
    make("aaaaaa", "a.py::test_one")

    assert call("rm", "aaaaaa", "nonsense").status == 3
    assert "aaaaaa" in call("failures").out


def test_rm_all_removes_this_project(call: Call, make: Make) -> None:
    make("aaaaaa", "a.py::test_one")
    make("bbbbbb", "b.py::test_two", rootdir="/other")

    assert call("rm", "--all").out == "aaaaaa\n"
    assert call("rm").status == 2
    assert "bbbbbb" in call("failures", "--all").out


def test_damaged_failure_is_told_and_removable(call: Call, store_dir: Path) -> None:
    Store.open(store_dir).close()
    (store_dir / "failures" / "half").mkdir()

    result = call("failures")

    assert (result.status, result.out) == (0, "")
    assert "half cannot be read" in result.err
    assert call("rm", "half").status == 0
    assert call("failures").err == ""
