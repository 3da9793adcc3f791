"""Limits and figures of groups on the real kernel, in whichever arrangement this host has."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from features import needs
from groups import (
    KILLED,
    burn,
    count_forks_until_refused,
    file_of,
    fork,
    is_on_v2,
    kill_all,
    memory_of,
    run_command,
    start_command,
    status_of,
    take_memory,
)
from polling import wait_until

from pytest_rootfs.kernel.cgroups import Parent

pytestmark = needs("own cgroups")


@needs("memory")
def test_memory_overrun_is_counted(parent: Parent) -> None:
    group = parent.create("c1", {"memory": 16 << 20})

    status = run_command(group, lambda: take_memory(64 << 20))

    figures = group.read()
    assert status == KILLED
    assert (figures["oom_kills"] or 0) >= 1
    assert 8 << 20 < (figures["memory_peak_bytes"] or 16 << 20) <= 16 << 20
    wait_until(group.remove)


@needs("memory")
def test_enough_memory_is_enough(parent: Parent) -> None:
    group = parent.create("c1", {"memory": 64 << 20})

    status = run_command(group, lambda: take_memory(16 << 20))

    assert (status, group.read()["oom_kills"]) == (0, 0)
    wait_until(group.remove)


@needs("memory")
def test_swap_counts_as_memory(parent: Parent) -> None:
    group = parent.create("c1", {"memory": 16 << 20})

    swap = file_of(group, "memory.swap.max", "memory.memsw.limit_in_bytes")

    assert swap == ("0" if is_on_v2(parent, "memory") else str(16 << 20))
    assert group.remove()


@needs("memory")
def test_only_the_culprit_is_killed(parent: Parent) -> None:
    group = parent.create("c1", {"memory": 16 << 20})

    def be_shell() -> int:
        return status_of(fork(lambda: take_memory(64 << 20))) - KILLED

    assert run_command(group, be_shell) == 0
    assert group.read()["oom_kills"] == 1
    wait_until(group.remove)


@needs("root", "cgroup v2")
def test_bytes_of_the_disk_are_counted(parent: Parent, tmp_path: Path) -> None:
    group = parent.create("c1", {})

    def be_writer() -> None:
        with open(tmp_path / "file", "wb") as file:
            file.write(b"x" * (1 << 20))
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert len((tmp_path / "file").read_bytes()) == 1 << 20

    assert run_command(group, be_writer) == 0
    figures = group.read()
    assert (figures["written_bytes"] or 0) >= 1 << 20
    assert (figures["read_bytes"] or 0) >= 1 << 20
    wait_until(group.remove)


@needs("cgroup v1", "memory")
def test_bytes_of_the_disk_are_unknown_on_v1(parent: Parent) -> None:
    group = parent.create("c1", {})

    figures = group.read()

    assert (figures["read_bytes"], figures["written_bytes"]) == (None, None)
    assert group.remove()


@needs("pids")
def test_pids_limit_excludes_init(parent: Parent) -> None:
    group = parent.create("c1", {"pids": 3})

    forks = run_command(group, count_forks_until_refused)

    figures = group.read()
    assert forks == 2
    assert (figures["pids_max_hits"] or 0) >= 1
    assert figures["pids_peak"] in (3, None)
    wait_until(group.remove)


@pytest.mark.slow
@needs("cpus")
def test_busy_processor_is_throttled(parent: Parent) -> None:
    group = parent.create("c1", {"cpus": 0.1})

    pid = start_command(group, burn)
    wait_until(lambda: (group.read()["throttled_s"] or 0) > 0)
    kill_all(pid)
    os.waitpid(pid, 0)

    assert (group.read()["cpu_s"] or 0) > 0
    wait_until(group.remove)


@needs("cpus")
def test_tiny_quota_is_the_least_possible(parent: Parent) -> None:

    group = parent.create("c1", {"cpus": 0.0001})

    assert file_of(group, "cpu.max", "cpu.cfs_quota_us").split()[0] == "1000"
    assert group.remove()


@needs("cpus")
def test_more_processors_than_exist_is_no_error(parent: Parent) -> None:

    group = parent.create("c1", {"cpus": 1e12})

    assert group.remove()


@needs("memory")
def test_limits_change_on_living_group(parent: Parent) -> None:
    group = parent.create("c1", {"memory": 16 << 20})
    seen = []

    for value in (64 << 20, 8 << 20, None, 32 << 20):
        group.limit("memory", value)
        seen.append(memory_of(group))

    assert [seen[0], seen[1], seen[3]] == [str(n << 20) for n in (64, 8, 32)]
    assert seen[2] == "max" or int(seen[2]) > 1 << 60
    assert group.remove()


@needs("pids")
def test_pids_limit_can_be_lifted(parent: Parent) -> None:
    group = parent.create("c1", {"pids": 1})

    group.limit("pids", None)

    assert file_of(group, "pids.max") == "max"
    assert group.remove()


@needs("pids")
def test_refused_limit_leaves_nothing(parent: Parent) -> None:

    with pytest.raises(OSError, match=r"write '-\d+' to") as caught:
        parent.create("c1", {"pids": -5})

    assert caught.value.errno == errno.EINVAL
    assert str(caught.value.filename).endswith("/c1/pids.max")
    assert not any(hierarchy.folder.has("c1") for hierarchy in parent.hierarchies)


@needs("pids")
def test_same_name_twice_is_refused(parent: Parent) -> None:
    group = parent.create("c1", {})

    with pytest.raises(FileExistsError):
        parent.create("c1", {})

    assert group.read()["pids"] == 0
    assert group.remove()


@needs("pids")
def test_used_group_is_not_removed(parent: Parent) -> None:
    group = parent.create("c1", {})
    pid = start_command(group, burn)
    wait_until(lambda: group.read()["pids"] == 1)

    removed_while_used = group.remove()
    kill_all(pid)
    os.waitpid(pid, 0)

    assert not removed_while_used
    wait_until(group.remove)


def test_group_leaks_no_descriptor(parent: Parent) -> None:
    before = os.listdir("/proc/self/fd")

    for number in range(3):
        group = parent.create(f"c{number}", {"pids": 5})
        group.read()
        assert group.remove()

    assert os.listdir("/proc/self/fd") == before


@needs("cgroup v1", "memory")
def test_process_goes_back_from_memory_group(parent: Parent) -> None:
    group = parent.create("c1", {"memory": 16 << 20})

    def be_init() -> None:
        os.write(group.command_tasks[0], b"0")
        os.write(group.leave_tasks[0], b"0")
        take_memory(64 << 20)

    assert status_of(fork(be_init)) == 0
    assert group.remove()
