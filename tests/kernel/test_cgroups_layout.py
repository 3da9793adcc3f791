"""What the kernel says about its control groups, read for hosts that are not at hand."""

from __future__ import annotations

import os
from pathlib import Path

from pytest_rootfs.kernel.cgroups_layout import kind_of, parse_mounts, parse_own


def device_of(path: Path) -> str:
    device = path.stat().st_dev
    return f"{os.major(device)}:{os.minor(device)}"


def v1_line(path: Path, *, root: str = "/", options: str = "rw,memory", flags: str = "rw") -> str:
    shown = str(path).replace(" ", "\\040")
    device = device_of(path)
    return f"35 31 {device} {root} {shown} {flags},relatime shared:9 - cgroup cgroup {options}"


def test_own_paths_are_keyed_by_controller() -> None:
    text = "9:name=systemd:/\n4:memory:/a/b\n2:cpu,cpuacct:/c:d\n0::/e\n"

    own = parse_own(text)

    assert own == {
        "name=systemd": "/",
        "memory": "/a/b",
        "cpu": "/c:d",
        "cpuacct": "/c:d",
        "": "/e",
    }


def test_joined_controllers_are_one_mount(tmp_path: Path) -> None:
    text = v1_line(tmp_path, options="rw,cpu,cpuacct")

    (mount,) = parse_mounts(text, {"cpu": "/", "cpuacct": "/"})

    assert (mount.version, mount.controllers, mount.own) == (1, ("cpu", "cpuacct"), str(tmp_path))


def test_own_folder_is_relative_to_mounted_root(tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    text = v1_line(tmp_path, root="/docker/abc")

    (mount,) = parse_mounts(text, {"memory": "/docker/abc/job"})

    assert mount.ancestry() == [str(tmp_path / "job"), str(tmp_path)]


def test_own_folder_outside_of_mount_is_unseen(tmp_path: Path) -> None:
    text = v1_line(tmp_path, root="/docker/abc")

    for own_path in ("/docker/abcdef", "/../other", "/docker/abc/gone", "/docker/abc (deleted)"):
        (mount,) = parse_mounts(text, {"memory": own_path})
        assert mount.ancestry() == []


def test_hidden_mount_is_left_out(tmp_path: Path) -> None:
    text = f"35 31 0:0 / {tmp_path} rw - cgroup cgroup rw,memory"

    assert parse_mounts(text, {"memory": "/"}) == []


def test_read_only_mount_with_blank_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a b"
    path.mkdir()

    (mount,) = parse_mounts(v1_line(path, flags="ro"), {"memory": "/"})

    assert (mount.path, mount.is_read_only, mount.own) == (str(path), True, str(path))


def test_hierarchy_without_our_controllers_is_left_out(tmp_path: Path) -> None:
    text = v1_line(tmp_path, options="rw,xattr,name=systemd")

    assert parse_mounts(text, {"name=systemd": "/"}) == []


def test_arrangements_have_names(tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    v1 = parse_mounts(v1_line(tmp_path / "v1"), {"memory": "/"})
    v2 = parse_mounts(
        f"41 31 {device_of(tmp_path)} / {tmp_path} rw - cgroup2 cgroup2 rw", {"": "/"}
    )

    kinds = [kind_of(mounts) for mounts in ([], v1, v2, v1 + v2)]

    assert kinds == ["none", "v1", "v2", "hybrid"]
