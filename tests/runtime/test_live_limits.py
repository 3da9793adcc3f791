"""Limits change while the container lives."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from features import missing, needs

from pytest_rootfs import failures
from pytest_rootfs.engine import Engine, EngineSettings
from pytest_rootfs.errors import (
    CommandFailed,
    CommandTimeout,
    ContainerDied,
    ContainerError,
    LimitUnavailable,
)
from pytest_rootfs.runtime.container import Container
from pytest_rootfs.runtime.spec import Limits
from pytest_rootfs.secret_values import SecretValues

if TYPE_CHECKING:
    from conftest import Start

MIB = 1 << 20
LIMITS = {"memory": "64M", "cpus": 0.5, "pids": 10}
SPIN = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done"


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def poor(
    engine: Engine,
    warnings: list[str],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Iterator[Container]:
    """Give a container on a host that lets us use no cgroup, with the policy of the parameter."""
    monkeypatch.setenv("PYTEST_ROOTFS_CGROUP", "none")
    settings = EngineSettings(store=engine.settings.store, limits=request.param)
    second = Engine(settings, warn=warnings.append)
    with second.start("minimal") as container:
        yield container
    second.close()


@needs("memory")
@pytest.mark.slow
def test_memory_can_be_limited_later(container: Container) -> None:
    container.limits.memory = "32M"

    with pytest.raises(CommandFailed, match=r"out of memory: over its limit of 32\.0 MiB"):
        container.run("set -e; x=$(head -c 100M /dev/zero | tail | wc -c); test -n $x -a $x -gt 1")

    [hit] = container.limits_hit()  # version 2 kills the whole group
    assert re.fullmatch(r"memory: the kernel killed \d process\(es\) over 32\.0 MiB", hit)


@needs("memory")
def test_memory_can_be_raised_and_lifted(start: Start) -> None:
    container = start(memory="16M")
    fill = "head -c 30M /dev/zero > /tmp/file"

    container.limits.memory = "64M"
    container.run(fill)
    container.limits.memory = None
    container.run("head -c 60M /dev/zero > /tmp/other")

    assert container.limits.memory is None
    assert container.stats().oom_kills == 0


@needs("disk")
@needs("memory")
def test_memory_in_use_cannot_be_taken_away(container: Container) -> None:
    container.run("head -c 20M /dev/zero > /tmp/file")

    with pytest.raises(ContainerError, match=r"lower the limit memory .* to 8\.0 MiB: 2\d\.\d MiB"):
        container.limits.memory = "8M"

    assert container.limits.memory is None
    assert container.run(["echo", "alive"]).stdout == "alive\n"
    container.path("/tmp/file").unlink()
    container.limits.memory = "8M"
    assert container.limits.memory == 8 * MIB


@needs("pids")
def test_processes_can_be_limited_later(container: Container) -> None:
    container.limits.pids = 5
    forks = "for i in 1 2 3 4 5 6; do sleep 100 >/dev/null 2>&1 & done"

    with pytest.raises(CommandFailed, match="out of processes: over its limit of 5"):
        container.run(forks)

    assert container.limits_hit() == ["pids: refused 1 time(s) to go over 5"]
    container.limits.pids = None
    assert container.limits_hit() == ["pids: refused 1 time(s) to go over the limit of then"]
    container.run(forks)


@needs("cpus")
@pytest.mark.slow
def test_processor_can_be_limited_later(container: Container) -> None:
    container.limits.cpus = 0.05

    done = container.run(SPIN)

    assert done.user_s + done.system_s < 0.5 * done.duration_s
    [hit] = container.limits_hit()
    assert hit.startswith("cpus: the processor limit of 0.05 core(s) (cpus=…) held the processes")


@needs("cpus")
@pytest.mark.slow
def test_processor_limit_can_be_lifted(start: Start) -> None:
    container = start(cpus=0.02)
    container.limits.cpus = None

    container.run(SPIN)

    assert container.stats().throttled_s == 0.0


@needs("cpus")
@pytest.mark.slow
def test_throttling_is_told_by_a_timeout(start: Start) -> None:
    container = start(cpus=0.02)

    with pytest.raises(CommandTimeout, match=r"limit of 0\.02 core\(s\) \(cpus=…\) held") as late:
        container.run("while :; do :; done", timeout=1.5)

    assert pickle.loads(pickle.dumps(late.value)).detail == late.value.detail


@needs("disk")
def test_disk_can_be_limited_later(container: Container) -> None:
    container.limits.disk = "1M"

    with pytest.raises(CommandFailed, match=r"out of disk space: over its limit of 1\.0 MiB"):
        container.run("head -c 2M /dev/zero > /tmp/file")

    with pytest.raises(OSError, match=r"limit disk=1\.0 MiB"):
        container.path("/tmp/other").write_bytes(b"x" * MIB)
    assert container.limits_hit() == ["disk: the rw layer is full at 1.0 MiB"]


@needs("disk")
def test_disk_can_be_raised_and_lifted(start: Start) -> None:
    container = start(disk="1M")
    container.limits.disk = "3M"
    container.run("head -c 2M /dev/zero > /tmp/file")

    container.limits.disk = None
    container.run("head -c 6M /dev/zero > /tmp/file")
    container.limits.disk = "8M"

    assert "No space" in container.run("head -c 9M /dev/zero > /tmp/file", check=False).stderr


@needs("disk")
def test_disk_in_use_cannot_be_taken_away(container: Container) -> None:
    container.run("head -c 2M /dev/zero > /tmp/file")

    with pytest.raises(ContainerError, match=r"lower the limit disk .* to 1\.0 MiB: 2\.0 MiB are"):
        container.limits.disk = "1M"

    assert container.limits.disk == 1 << 30
    container.run("head -c 2M /dev/zero > /tmp/other")


@needs("disk")
def test_disk_limit_outlives_a_restart(container: Container) -> None:
    container.limits.disk = "1M"
    container.restart()

    done = container.run("head -c 2M /dev/zero > /tmp/file", check=False)

    assert "No space left on device" in done.stderr


@needs("pids")
def test_live_limit_outlives_a_restart(container: Container) -> None:
    container.limits.pids = 5
    container.restart()

    with pytest.raises(CommandFailed, match="over its limit of 5"):
        container.run("for i in 1 2 3 4 5 6; do sleep 100 & done")


@needs("disk")
def test_limits_compare_with_plain_ones(container: Container) -> None:
    container.limits.disk = "2M"
    plain = Limits(pids=1024, disk=2 * MIB)

    assert container.limits == plain and plain == container.limits
    assert container.limits != Limits()
    assert isinstance(container.limits, Limits)
    assert (repr(container.limits), hash(container.limits)) == (repr(plain), hash(plain))
    assert dataclasses.asdict(container.limits) == dataclasses.asdict(plain)


@needs("disk")
def test_copies_of_limits_change_nothing(container: Container) -> None:
    before = pickle.loads(pickle.dumps(container.limits)), copy.copy(container.limits)
    container.limits.disk = "2M"

    assert before == (Limits(pids=1024, disk=1 << 30),) * 2
    assert {type(limits) for limits in before} == {Limits}


@needs("disk")
def test_options_stay_what_was_asked_for(start: Start) -> None:
    container = start(disk="4M")
    container.limits.disk = "2M"

    assert container.options.disk == 4 * MIB
    view = failures.Viewpoint(began_ns=0, secrets=SecretValues())
    assert failures.look(container, view).limits["disk"] == 2 * MIB


@pytest.mark.parametrize(
    ("key", "value"), [("memory", "much"), ("cpus", 0), ("pids", 1.5), ("disk", -1)]
)
def test_bad_value_names_the_key(container: Container, key: str, value: object) -> None:
    before = copy.copy(container.limits)

    with pytest.raises(ValueError, match=f"^{key}={value!r} is "):
        setattr(container.limits, key, value)

    assert container.limits == before


def test_unknown_limit_is_refused(container: Container) -> None:
    with pytest.raises(AttributeError, match="memroy"):
        container.limits.memroy = "8M"  # type: ignore[attr-defined]  # that is the point


def test_limit_of_a_closed_container(container: Container) -> None:
    container.close()

    with pytest.raises(ContainerDied, match="is closed"):
        container.limits.disk = "8M"


@pytest.mark.parametrize("poor", ["strict"], indirect=True)
@pytest.mark.parametrize(("key", "value"), LIMITS.items())
def test_limit_without_cgroup_is_refused(poor: Container, key: str, value: object) -> None:
    before = copy.copy(poor.limits)

    with pytest.raises(LimitUnavailable, match=f"the limit {key}=.* cannot be enforced"):
        setattr(poor.limits, key, value)

    assert poor.limits == before
    setattr(poor.limits, key, None)


@pytest.mark.parametrize("poor", ["best-effort"], indirect=True)
def test_best_effort_warns_once(poor: Container, warnings: list[str]) -> None:
    poor.limits.memory = "64M"
    poor.limits.memory = "32M"

    assert [text.split(":")[0] for text in warnings] == [
        "the limit memory is not enforced on this host"
    ]


@pytest.mark.parametrize("poor", ["off"], indirect=True)
def test_limits_that_are_off_stay_off(poor: Container, warnings: list[str]) -> None:
    poor.limits.disk = "1M"
    poor.limits.pids = 2

    poor.run("head -c 2M /dev/zero > /tmp/file")
    assert warnings == []


def test_rw_layer_on_disk_takes_no_limit(
    container: Container, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(engine.session.controllers, "disk", False)

    with pytest.raises(LimitUnavailable, match=r"disk=.* cannot be enforced .*\n.*6\.6"):
        container.limits.disk = "8M"


@pytest.mark.parametrize(("key", "value"), LIMITS.items())
def test_this_host_keeps_its_word(container: Container, key: str, value: object) -> None:
    if missing(key):
        with pytest.raises(LimitUnavailable):
            setattr(container.limits, key, value)
    else:
        setattr(container.limits, key, value)
        assert container.run(["echo", "runs"]).stdout == "runs\n"


@needs("disk")
def test_limits_of_a_killed_container_can_change(container: Container) -> None:
    container.kill()
    container.limits.disk = "1M"

    container.restart()

    assert "No space" in container.run("head -c 2M /dev/zero > /file", check=False).stderr
