"""Hosts whose control groups are mounted otherwise, made by real mounts; what is said there."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from features import needs
from groups import NOBODY, become, fork, join_and_pause, session
from namespaced import in_mount_namespace
from polling import wait_until

from pytest_rootfs.kernel import cgroups_files, cgroups_layout, cgroups_rights, syscalls
from pytest_rootfs.kernel.cgroups import SETTING, find_parent, survey
from pytest_rootfs.kernel.cgroups_files import Folder
from pytest_rootfs.kernel.cgroups_session import FIGURES
from pytest_rootfs.kernel.cgroups_v1 import V1Hierarchy
from pytest_rootfs.kernel.cgroups_v2 import V2Hierarchy

CGROUPS = "/sys/fs/cgroup"
NOTHING = {"memory": False, "pids": False, "cpu": False}
MNT_DETACH = 2


def described() -> tuple[dict[str, object], object]:
    """Return what is found and what is guessed; leaves nothing."""
    guess = survey()
    with session() as found:
        return found.describe(), guess


@pytest.fixture
def tree() -> Iterator[Folder]:
    """Give a new folder of the v2 tree, with or without controllers."""
    (mount,) = (mount for mount in cgroups_layout.read_mounts() if mount.version == 2)
    folder = Folder(mount.path)
    name = f"{cgroups_rights.PREFIX}given-{os.getpid()}"
    folder.mkdir(name)
    given = Folder(f"{mount.path}/{name}")
    yield given
    given.close()
    wait_until(lambda: cgroups_files.remove_tree(folder, name))
    folder.close()


@pytest.fixture
def inside(tree: Folder) -> Iterator[Callable[[], int]]:
    """Start processes in the folder that are not of our process session."""
    started = []

    def start() -> int:
        reading, writing = os.pipe()

        def be_first() -> None:
            os.setsid()
            pid = fork(lambda: join_and_pause(tree, "cgroup.procs"))
            os.write(writing, str(pid).encode())

        os.waitpid(fork(be_first), 0)
        started.append(int(os.read(reading, 20)))
        os.close(reading)
        os.close(writing)
        wait_until(lambda: str(started[-1]) in (tree.read("cgroup.procs") or "").split())
        return started[-1]

    yield start
    for pid in started:
        os.kill(pid, signal.SIGKILL)


def in_container(folder: Folder, function: Callable[[], object]) -> object:
    """Call a function where `folder` is the root of all that is seen, as in a container."""

    def enter() -> object:
        folder.write("cgroup.procs", "0")
        syscalls.unshare(syscalls.CLONE_NEWCGROUP)
        syscalls.umount2(CGROUPS, MNT_DETACH)
        syscalls.mount("cgroup2", CGROUPS, "cgroup2", 0)
        return function()

    return in_mount_namespace(enter)


@needs("root")
def test_read_only_mounts_are_told() -> None:
    flags = syscalls.MS_REMOUNT | syscalls.MS_BIND | syscalls.MS_RDONLY

    def on_host() -> object:
        for mount in cgroups_layout.read_mounts():
            syscalls.mount(None, mount.path, None, flags)
        return described()

    facts, guess = in_mount_namespace(on_host)  # type: ignore[misc]  # a pair, through a pickle

    assert (facts["kind"], facts["controllers"], guess) == ("none", NOTHING, ("none", NOTHING))
    for reason in facts["reasons"].values():
        assert "is mounted read-only, as in a container without privileges; start" in reason


@needs("root", "cgroup v1", "memory", "pids", "cpus")
def test_host_without_v2_has_limits() -> None:
    def on_host() -> object:
        for mount in cgroups_layout.read_mounts():
            if mount.version == 2:
                syscalls.umount2(mount.path, MNT_DETACH)
        return described()

    facts, guess = in_mount_namespace(on_host)  # type: ignore[misc]  # a pair, through a pickle

    usable = dict.fromkeys(NOTHING, True)
    assert (facts["kind"], facts["controllers"], guess) == ("v1", usable, ("v1", usable))


@needs("root")
@pytest.mark.parametrize("way", ["unmounted", "hidden"])
def test_host_without_mounts_is_told(way: str) -> None:
    def on_host() -> object:
        if way == "unmounted":
            syscalls.umount2(CGROUPS, MNT_DETACH)
        else:
            syscalls.mount("tmpfs", CGROUPS, "tmpfs", 0)
        return described()

    facts, guess = in_mount_namespace(on_host)  # type: ignore[misc]  # a pair, through a pickle

    assert (facts["kind"], facts["controllers"], guess) == ("none", NOTHING, ("none", NOTHING))
    assert facts["reasons"]["memory"] == (
        "no control group file system with the memory controller is mounted; "
        "in a container: start it with --privileged, or mount /sys/fs/cgroup into it"
    )


@needs("root")
def test_switched_off_controller_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups_layout, "disabled_controllers", lambda: {"memory"})

    def on_host() -> object:
        syscalls.umount2(CGROUPS, MNT_DETACH)
        return find_parent().reasons

    reasons = in_mount_namespace(on_host)

    assert isinstance(reasons, dict)
    assert reasons["memory"] == (
        "the kernel has the memory controller switched off; boot it with cgroup_enable=memory"
    )
    assert "is mounted" in reasons["pids"]


@needs("root", "cgroup v2")
@pytest.mark.parametrize(
    ("file", "value", "words"),
    [
        ("cgroup.max.descendants", "0", "mkdir: Resource temporarily unavailable; name a folder"),
        (
            "cgroup.type",
            "threaded",
            "{}/pytest-rootfs-.*/cgroup.subtree_control: Operation not supported; name a folder",
        ),
    ],
)
def test_unusable_setting_is_told(tree: Folder, file: str, value: str, words: str) -> None:
    tree.write(file, value)

    found = find_parent(tree.path)

    assert (found.kind, found.controllers) == ("none", NOTHING)
    assert re.search(words.format(tree.path), found.reasons["pids"])
    assert f"in {SETTING}" in found.reasons["pids"]


@needs("root", "cgroup v2")
def test_setting_out_of_reach_is_told(tree: Folder) -> None:
    tree.give((NOBODY, NOBODY), ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads"))

    def be_nobody() -> object:
        become(NOBODY)
        return find_parent(tree.path).describe()

    facts = in_mount_namespace(be_nobody)

    assert isinstance(facts, dict)
    assert facts["controllers"] == NOTHING
    assert re.fullmatch(
        rf"joining {tree.path}/pytest-rootfs-\S+ fails: Permission denied; "
        rf"let root move your shell into {tree.path}, or run pytest as root",
        facts["reasons"]["pids"],
    )


@pytest.fixture
def poor(tree: Folder) -> Iterator[Folder]:
    """Give a folder to which cpu is not delegated."""
    tree.mkdir("poor")
    tree.write("cgroup.subtree_control", "+memory +pids")
    folder = Folder(tree.at("poor"))
    yield folder
    folder.close()


@needs("root", "cgroup v2")
def test_missing_delegation_is_told(poor: Folder) -> None:
    with session(poor.path) as found:
        assert found.controllers == {"memory": True, "pids": True, "cpu": False}
        assert found.reasons == {
            "cpu": f"the cpu controller is not delegated to {poor.path}; let root put `[Service]` "
            "and `Delegate=cpu cpuset io memory pids` into "
            "/etc/systemd/system/user@.service.d/delegate.conf, and log in again"
        }


@needs("root", "cgroup v2")
def test_withheld_controller_is_told(poor: Folder) -> None:
    facts, _ = in_container(poor, described)  # type: ignore[misc]  # a pair, through a pickle

    assert facts["controllers"] == {"memory": True, "pids": True, "cpu": False}
    assert facts["reasons"]["cpu"].startswith(f"the cpu controller is not given to {CGROUPS}, by")


@needs("root")
def test_frozen_folder_is_refused(tree: Folder) -> None:
    tree.mkdir("below")
    tree.write("cgroup.freeze", "1")

    with pytest.raises(OSError, match="frozen"):
        V2Hierarchy(tree.at("below"), "session", (), None)

    assert os.listdir(tree.at("below")).count("session") == 0


@needs("root", "cgroup v2")
def test_frozen_setting_is_told(tree: Folder) -> None:
    tree.write("cgroup.freeze", "1")

    found = find_parent(tree.path)

    assert (found.kind, found.controllers) == ("none", NOTHING)
    assert found.reasons["memory"] == (
        f"{tree.path} is frozen, so nothing in it would ever run; thaw it, "
        f"`echo 0 > {tree.path}/cgroup.freeze`, or name another folder in {SETTING}"
    )


@needs("root", "cgroup v2")
def test_container_of_ours_alone_is_divided(tree: Folder) -> None:
    facts, guess = in_container(tree, described)  # type: ignore[misc]  # a pair, through a pickle

    usable = dict.fromkeys(NOTHING, True)
    assert (facts["kind"], facts["controllers"], guess) == ("v2", usable, ("v2", usable))
    assert [os.path.dirname(path) for path in facts["folders"]] == [CGROUPS]


@needs("root", "cgroup v2")
def test_workers_share_a_container(tree: Folder) -> None:
    def two() -> object:
        return [in_mount_namespace(lambda: described()[0]["controllers"]) for _ in range(2)]

    assert in_container(tree, two) == [dict.fromkeys(NOTHING, True)] * 2


@needs("root", "cgroup v2")
def test_strangers_in_container_are_not_moved(tree: Folder, inside: Callable[[], int]) -> None:
    stranger = inside()

    facts, guess = in_container(tree, described)  # type: ignore[misc]  # a pair, through a pickle

    assert (facts["controllers"], guess) == (NOTHING, ("none", NOTHING))
    assert facts["reasons"]["pids"] == (
        f"{CGROUPS} holds processes that are not of this session, such as process {stranger} "
        f"({Path(f'/proc/{stranger}/comm').read_text().strip()}); set {SETTING}={CGROUPS} to have "
        "them moved into pytest-rootfs-leaf below it"
    )
    assert not (tree.read("cgroup.subtree_control") or "").strip()


@needs("root", "cgroup v2")
def test_setting_moves_strangers(tree: Folder, inside: Callable[[], int]) -> None:
    stranger = inside()

    def with_setting() -> object:
        with session(CGROUPS) as found:
            return found.controllers

    assert in_container(tree, with_setting) == dict.fromkeys(NOTHING, True)
    assert str(stranger) in (tree.read("pytest-rootfs-leaf/cgroup.procs") or "").split()


@needs("root", "cgroup v2")
def test_setting_with_processes_of_another_namespace(
    tree: Folder, inside: Callable[[], int]
) -> None:
    inside()

    def in_new_pid_namespace() -> object:
        syscalls.unshare(syscalls.CLONE_NEWPID)
        return in_mount_namespace(lambda: find_parent(CGROUPS).describe())

    facts = in_container(tree, in_new_pid_namespace)

    assert isinstance(facts, dict)
    assert facts["controllers"] == NOTHING
    assert "move all processes out of" in facts["reasons"]["memory"]


@pytest.mark.parametrize("kind", [V1Hierarchy, V2Hierarchy])
def test_figures_of_older_kernels_are_none(
    tmp_path: Path, kind: type[V1Hierarchy | V2Hierarchy]
) -> None:
    (tmp_path / "c1").mkdir()
    hierarchy = kind.__new__(kind)
    hierarchy.folder = Folder(str(tmp_path))
    hierarchy.controllers = ("memory", "pids", "cpu", "cpuacct", "io")
    figures: dict[str, int | float | None] = dict.fromkeys(FIGURES)

    hierarchy.read("c1", figures)

    hierarchy.folder.close()
    assert figures == dict.fromkeys(FIGURES)
