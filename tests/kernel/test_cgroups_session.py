"""Where groups are made, for whom, and what is swept: in whichever arrangement this host has."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from denied import Denial, deny, install
from features import needs
from groups import (
    NOBODY,
    SHIFTED,
    become,
    count_forks_until_refused,
    dead_pid,
    file_of,
    fork,
    join_and_pause,
    run_command,
    session,
    status_of,
)
from polling import wait_until

from pytest_rootfs.kernel import cgroups_files, cgroups_rights, forks, syscalls
from pytest_rootfs.kernel.cgroups import FIGURES, Parent, find_parent, survey

pytestmark = needs("own cgroups")


def test_session_leaks_no_descriptor() -> None:
    before = os.listdir("/proc/self/fd")

    with session():
        pass

    assert os.listdir("/proc/self/fd") == before


@needs("root", "pids", "memory", "cpus")
def test_other_user_makes_groups_in_given_folder() -> None:
    with session(owner=(SHIFTED, SHIFTED)) as parent:

        def be_spawner() -> int:
            parent.enter()
            become(SHIFTED)
            group = parent.create("c1", {"pids": 3, "memory": 32 << 20, "cpus": 1})
            forks = run_command(group, count_forks_until_refused)
            wait_until(group.remove)
            return forks

        assert status_of(fork(be_spawner)) == 2


@needs("cgroup v2", "pids", "memory")
@pytest.mark.parametrize("denials", [[], deny("clone3")], ids=["clone3", "clone"])
def test_command_is_cloned_into_group(denials: list[Denial]) -> None:
    owner = (SHIFTED, SHIFTED) if os.geteuid() == 0 else None
    with session(owner=owner) as parent:

        def be_init() -> int:
            parent.enter()
            if owner is not None:
                become(SHIFTED)
            group = parent.create("c1", {"pids": 3, "memory": 32 << 20})
            assert group.into_fd is not None
            install(denials)
            joined_r, joined_w = os.pipe()
            # only root of a user namespace makes a namespace of control groups
            own = syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWCGROUP
            pid, _ = forks.fork_into(group.into_fd, own)
            if pid == 0:
                os.write(joined_w, b"x")
                signal.pause()
            os.close(joined_w)
            os.read(joined_r, 1)
            inside = int(file_of(group, "cgroup.procs"))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            wait_until(group.remove)
            return 0 if inside == pid else 1

        assert status_of(fork(be_init)) == 0


@needs("pids")
def test_sweep_removes_only_what_is_abandoned(parent: Parent) -> None:
    boot_id8, pid, start_time = parent.name.removeprefix("pytest-rootfs-").split("-")
    base = parent.hierarchies[0].base
    dead = [f"pytest-rootfs-{boot_id8}-{dead_pid()}-7", "pytest-rootfs-00000000-1-1"]
    living = [parent.name, f"pytest-rootfs-leaf-{pid}"]
    for name in [*dead, living[1]]:
        base.mkdir(name)
    base.mkdir(f"{dead[0]}/c1")
    assert start_time.isdigit()

    swept = parent.sweep()

    assert {base.at(name) for name in dead} <= set(swept)
    assert all(base.has(name) for name in living)
    assert base.rmdir(living[1])


@needs("pids")
def test_sweep_spares_folder_in_use(parent: Parent) -> None:
    hierarchy = parent.hierarchies[0]
    name = f"pytest-rootfs-00000000-{dead_pid()}-7"
    hierarchy.base.mkdir(name)
    hierarchy.base.mkdir(f"{name}/c1")

    pid = fork(lambda: join_and_pause(hierarchy.base, f"{name}/c1/cgroup.procs"))
    wait_until(lambda: hierarchy.is_populated(name))

    swept = parent.sweep()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)

    assert hierarchy.base.at(name) not in swept
    wait_until(lambda: hierarchy.base.at(name) in parent.sweep())


def test_name_of_reused_pid_is_orphan() -> None:
    name = cgroups_rights.session_name()

    assert not cgroups_rights.is_orphan(name)
    assert cgroups_rights.is_orphan(f"{name}0")


@needs("root")
def test_user_without_access_gets_reasons() -> None:
    reading, writing = os.pipe()

    def be_nobody() -> None:
        become(NOBODY)
        found = find_parent()
        group = found.create("c1", {"pids": 5})
        outcome = [found.describe(), survey(), group.read(), group.remove(), found.remove()]
        os.write(writing, json.dumps(outcome).encode())

    assert status_of(fork(be_nobody)) == 0
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        described, seen, figures, *removed = json.load(answer)
    nothing = {"memory": False, "pids": False, "cpu": False}
    assert (described["kind"], described["controllers"], described["folders"]) == (
        "none",
        nothing,
        [],
    )
    assert all("run pytest as root" in reason for reason in described["reasons"].values())
    assert seen == ["none", nothing]
    assert figures == dict.fromkeys(FIGURES)
    assert removed == [True, True]


def test_survey_agrees_with_what_was_found(parent: Parent) -> None:
    kind, controllers = survey()

    assert (kind, controllers) == (parent.kind, parent.controllers)


@needs("pids")
def test_setting_names_the_only_place(parent: Parent) -> None:
    holder = next(h for h in parent.hierarchies if "pids" in h.controllers)
    folder = holder.base.at(f"pytest-rootfs-given-{os.getpid()}")
    holder.base.mkdir(Path(folder).name)

    def be_other_session() -> int:
        with session(folder) as found:
            return 0 if [h.base.path for h in found.hierarchies] == [folder] else 1

    status = status_of(fork(be_other_session))

    assert holder.base.rmdir(Path(folder).name)
    assert status == 0


@needs("root", "cgroup v1", "pids")
def test_user_limits_in_folders_given_by_root(parent: Parent) -> None:
    """On v2 the user must be in the given folder already: that is delegation."""
    name = f"pytest-rootfs-given-{os.getpid()}"
    for hierarchy in parent.hierarchies:
        hierarchy.base.mkdir(name)
        os.chown(name, NOBODY, NOBODY, dir_fd=hierarchy.base.fd)

    def be_nobody() -> int:
        become(NOBODY)
        with session(":".join(h.base.at(name) for h in parent.hierarchies)) as found:
            group = found.create("c1", {"pids": 3})
            forks = run_command(group, count_forks_until_refused)
            wait_until(group.remove)
            return forks

    status = status_of(fork(be_nobody))

    removed = [hierarchy.base.rmdir(name) for hierarchy in parent.hierarchies]
    assert all(removed)
    assert status == 2


@needs("cgroup v2", "pids")
def test_processes_in_given_folder_move_to_leaf(parent: Parent) -> None:
    (tree,) = parent.hierarchies
    name = f"pytest-rootfs-given-{os.getpid()}"
    tree.folder.mkdir(name)
    inside = fork(lambda: join_and_pause(tree.folder, f"{name}/cgroup.procs"))
    wait_until(lambda: bool(tree.folder.read(f"{name}/cgroup.procs")))

    def be_worker() -> int:
        with session(tree.folder.at(name)) as found:
            return 0 if found.controllers["pids"] else 1

    statuses = [status_of(pid) for pid in [fork(be_worker) for _ in range(3)]]
    moved = tree.folder.read(f"{name}/pytest-rootfs-leaf/cgroup.procs")
    os.kill(inside, signal.SIGKILL)
    os.waitpid(inside, 0)

    assert (statuses, moved) == ([0, 0, 0], f"{inside}\n")
    wait_until(lambda: cgroups_files.remove_tree(tree.folder, name))


def test_unusable_setting_is_not_replaced() -> None:
    with session("no/such/folder") as found:
        assert found.kind == "none"
        assert all("no/such/folder" in reason for reason in found.reasons.values())
