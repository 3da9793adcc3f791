"""Limits are enforced and reported, or refused."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import pytest
from features import missing, needs

from pytest_rootfs.engine import Engine, EngineSettings
from pytest_rootfs.errors import CommandFailed, HostUnsupported, LimitUnavailable
from pytest_rootfs.runtime.container import Container
from pytest_rootfs.runtime.limit_watch import LimitWatch
from pytest_rootfs.runtime.spec import ContainerOptions, Limits

if TYPE_CHECKING:
    from conftest import Start

MIB = 1 << 20
EAT_MEMORY = "head -c 100M /dev/zero | tail | wc -c"
LIMITS = {"memory": "64M", "cpus": 0.5, "pids": 10}
Policy = Literal["strict", "best-effort", "off"]
OUTCOMES = {
    ("strict", "usable"): ("enforced", 0),
    ("strict", "unusable"): ("refused", 0),
    ("best-effort", "usable"): ("enforced", 0),
    ("best-effort", "unusable"): ("ignored", 1),
    ("off", "usable"): ("ignored", 0),
    ("off", "unusable"): ("ignored", 0),
}
"""What becomes of a limit, and how many warnings are given."""


def fork_too_often(engine: Engine) -> str:
    options = ContainerOptions.from_keywords({"pids": 3})
    try:
        with engine.start("minimal", options=options) as container:
            done = container.run("for i in 1 2 3 4 5; do sleep 100 & done", check=False)
    except LimitUnavailable:
        return "refused"
    return "enforced" if "Cannot fork" in done.stderr else "ignored"


@pytest.fixture
def unlimited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be on a host that lets us use no cgroup."""
    monkeypatch.setenv("PYTEST_ROOTFS_CGROUP", "none")


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def lenient(engine: Engine, warnings: list[str], unlimited: None) -> Iterator[Engine]:
    settings = EngineSettings(store=engine.settings.store, limits="best-effort")
    second = Engine(settings, warn=warnings.append)
    yield second
    second.close()


@pytest.fixture
def strict(engine: Engine, unlimited: None) -> Iterator[Engine]:
    second = Engine(EngineSettings(store=engine.settings.store), warn=pytest.fail)
    yield second
    second.close()


@needs("memory")
@pytest.mark.slow
def test_too_much_memory_is_told(start: Start) -> None:
    container = start(memory="32M")

    with pytest.raises(CommandFailed) as failure:
        container.run(f"set -e; x=$({EAT_MEMORY}); test $x = {100 * MIB}")

    assert "out of memory: over its limit of 32.0 MiB" in str(failure.value)
    assert container.stats().oom_kills == 1
    assert container.limits_hit() == ["memory: the kernel killed 1 process(es) over 32.0 MiB"]


@needs("memory")
@pytest.mark.slow
def test_command_that_survives_tells_too(start: Start) -> None:
    container = start(memory="32M")

    done = container.run(f"{EAT_MEMORY}; true")
    later = container.run(["true"])

    assert (done.oom_killed, later.oom_killed) == (True, False)


@needs("memory")
@pytest.mark.slow
def test_container_survives_too_much_memory(start: Start) -> None:
    container = start(memory="32M")
    with pytest.raises(CommandFailed):
        container.run(f"x=$({EAT_MEMORY}); exit 1")

    assert container.run(["echo", "alive"]).stdout == "alive\n"


@needs("memory")
def test_files_count_as_memory(start: Start) -> None:
    container = start(memory="32M")

    container.run("head -c 10M /dev/zero > /tmp/file")

    used_bytes = container.stats().memory_bytes
    assert used_bytes is not None and 10 * MIB <= used_bytes < 20 * MIB


@needs("pids")
def test_too_many_processes_are_refused(start: Start) -> None:
    container = start(pids=5)

    done = container.run("for i in 1 2 3 4 5 6; do sleep 100 & done", check=False)

    assert "Cannot fork" in done.stderr
    assert (container.stats().pids_max_hits or 0) >= 1
    assert container.limits_hit() == ["pids: refused 1 time(s) to go over 5"]


@needs("pids")
def test_as_many_processes_as_allowed(start: Start) -> None:
    container = start(pids=10)

    container.run("for i in 1 2 3 4 5 6 7; do sleep 100 >/dev/null 2>&1 & done")

    stats = container.stats()
    assert (stats.pids_max_hits, container.limits_hit()) == (0, [])
    assert stats.pids is not None and 7 <= stats.pids <= 8


@needs("cpus")
@pytest.mark.slow
def test_too_much_time_is_throttled(start: Start) -> None:
    container = start(cpus=0.1)

    done = container.run("i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done")

    stats = container.stats()
    assert stats.throttled_s is not None and stats.throttled_s > 0
    assert done.user_s + done.system_s < 0.5 * done.duration_s


@needs("disk")
def test_full_disk_is_told_by_the_kernel(start: Start) -> None:
    container = start(disk="1M")

    done = container.run("head -c 2M /dev/zero > /tmp/file", check=False)

    assert "No space left on device" in done.stderr
    with pytest.raises(OSError, match="No space left on device"):
        container.path("/tmp/other").write_bytes(b"x" * 2 * MIB)


@needs("disk")
def test_files_below_the_limit_fit(start: Start) -> None:
    container = start(disk="2M")

    container.run("head -c 1M /dev/zero > /tmp/file")

    assert container.path("/tmp/file").stat().st_size == MIB


@needs("memory")
def test_figures_grow(start: Start) -> None:
    container = start()
    before = container.stats()
    container.run("i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done")

    after = container.stats()

    assert before.cpu_s is not None and after.cpu_s is not None
    assert after.cpu_s > before.cpu_s
    assert (after.oom_kills, after.throttled_s) == (0, 0.0)
    assert after.memory_peak_bytes is not None and after.memory_peak_bytes > 100_000


@needs("memory")
def test_figures_outlive_the_processes(container: Container) -> None:
    container.run("head -c 1M /dev/zero > /tmp/file")
    container.kill()

    stats = container.stats()

    assert stats.memory_peak_bytes is not None and stats.memory_peak_bytes > MIB
    assert stats.pids == 0


@pytest.mark.parametrize(("key", "value"), LIMITS.items())
def test_limit_without_cgroup_is_refused(strict: Engine, key: str, value: object) -> None:
    options = ContainerOptions.from_keywords({key: value})

    with pytest.raises(LimitUnavailable, match=f"the limit {key}=.* cannot be enforced") as refusal:
        strict.start("minimal", options=options)

    assert isinstance(refusal.value, HostUnsupported)
    assert refusal.value.detail
    assert "--rootfs-limits best-effort" in refusal.value.hint
    assert strict.containers == []


def test_defaults_apply_where_they_can(strict: Engine) -> None:
    with strict.start("minimal") as container:
        assert container.run(["echo", "runs"]).stdout == "runs\n"


def test_best_effort_warns_once(lenient: Engine, warnings: list[str]) -> None:
    for _ in range(2):
        options = ContainerOptions.from_keywords({"memory": "64M", "pids": 10})
        with lenient.start("minimal", options=options) as container:
            assert container.run(["echo", "runs"]).stdout == "runs\n"

    assert [text.split(":")[0] for text in warnings] == [
        "the limit memory is not enforced on this host",
        "the limit pids is not enforced on this host",
    ]


def test_figures_without_cgroup_are_none(lenient: Engine) -> None:
    with lenient.start("minimal") as container:
        container.run(["true"])
        stats = container.stats()
        hit = container.limits_hit()

    assert (stats.memory_bytes, stats.memory_peak_bytes, stats.cpu_s) == (None, None, None)
    assert (stats.oom_kills, stats.pids, stats.throttled_s) == (None, None, None)
    assert hit == []


@needs("disk")
def test_disk_limit_needs_no_cgroup(strict: Engine) -> None:
    with strict.start(
        "minimal", options=ContainerOptions.from_keywords({"disk": "1M"})
    ) as container:
        done = container.run("head -c 2M /dev/zero > /tmp/file", check=False)

    assert "No space left on device" in done.stderr


@pytest.mark.parametrize(("key", "value"), LIMITS.items())
def test_this_host_keeps_its_word(engine: Engine, key: str, value: object) -> None:
    options = ContainerOptions.from_keywords({key: value})

    if missing(key):
        with pytest.raises(LimitUnavailable):
            engine.start("minimal", options=options)
    else:
        with engine.start("minimal", options=options) as container:
            assert container.run(["echo", "runs"]).stdout == "runs\n"


@needs("pids")
@pytest.mark.parametrize("place", ["usable", "unusable"])
@pytest.mark.parametrize("policy", ["strict", "best-effort", "off"])
def test_policy_and_host_decide(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, policy: Policy, place: str
) -> None:
    if place == "unusable":
        monkeypatch.setenv("PYTEST_ROOTFS_CGROUP", "none")
    warned: list[str] = []
    settings = EngineSettings(store=engine.settings.store, limits=policy)
    second = Engine(settings, warn=warned.append)

    outcome = fork_too_often(second)
    second.close()

    assert (outcome, len(warned)) == OUTCOMES[policy, place]


@needs("disk")
def test_full_disk_is_the_reason(start: Start) -> None:
    container = start(disk="1M")

    with pytest.raises(CommandFailed, match=r"out of disk space: over its limit of 1\.0 MiB"):
        container.run("head -c 2M /dev/zero > /tmp/file")


@needs("disk")
@pytest.mark.parametrize("content", ["x" * 10_000, b"x" * 10_000])
def test_full_disk_is_told_with_the_file(start: Start, content: str | bytes) -> None:
    container = start(disk="1M")
    container.run("head -c 2M /dev/zero > /tmp/file", check=False)
    path = container.path("/tmp/other")

    with pytest.raises(OSError, match=r"limit disk=1\.0 MiB") as failure:
        _ = path.write_text(content) if isinstance(content, str) else path.write_bytes(content)

    assert (failure.value.errno, failure.value.filename) == (errno.ENOSPC, "/tmp/other")


def test_full_tmpfs_is_not_the_disk(start: Start) -> None:
    container = start(tmpfs=[("/scratch", "1M")])

    with pytest.raises(OSError, match=r"limit 1\.0 MiB of tmpfs /scratch"):
        container.path("/scratch/file").write_bytes(b"x" * 2 * MIB)


@needs("pids")
def test_too_many_processes_are_the_reason(start: Start) -> None:
    container = start(pids=5)

    with pytest.raises(CommandFailed, match="out of processes: over its limit of 5"):
        container.run("for i in 1 2 3 4 5 6; do sleep 100 & done")


def test_limit_of_a_cgroup_above_is_not_taken_for_the_containers() -> None:
    watch = LimitWatch(Limits(pids=1024))
    status = {"stats": {"pids_peak": 2, "pids_max_hits": 1}}

    says = "at 2 processes, below its limit of 1024: .* group above the container has a lower one"
    assert re.search(f"out of processes: {says}", watch.look(status).reason)
    [hit] = watch.describe(status, ())
    assert re.match(f"pids: refused 1 time\\(s\\) {says}", hit)
    status["stats"] = {"pids_peak": 1023, "pids_max_hits": 2}  # as two forks at once may leave it
    assert watch.look(status).reason == "out of processes: over its limit of 1024 (pids=…)"
