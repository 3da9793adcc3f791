"""Mounts that people ask for: every kind of source and target, their order, and what is refused.

The cases are those of the suites of runc, crun and bubblewrap.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from error_form import assert_well_formed
from features import needs

from pytest_rootfs.engine import Engine
from pytest_rootfs.errors import ContainerError
from pytest_rootfs.image import Image
from pytest_rootfs.runtime.host_trees import _tree_of
from pytest_rootfs.runtime.spec import ContainerOptions, Mount

if TYPE_CHECKING:
    from conftest import Start

WITH_MOUNT = Image("minimal").add_binary("/usr/bin/mount").add_binary("/usr/bin/umount")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a host folder with a file in it."""
    found = tmp_path / "folder"
    found.mkdir()
    (found / "x").write_text("in the folder")
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Give a host file."""
    found = tmp_path / "file"
    found.write_text("the file")
    return found


def linked(name: str, target: str, *commands: str) -> Image:
    """Return an image with a symlink."""
    image = Image("minimal")
    for command in commands:
        image = image.run(command)
    return image.run(["ln", "-s", target, name])


def refusal(engine: Engine, image: Image | str = "minimal", **options: object) -> ContainerError:
    """Return why a container cannot be started, whose error has the right form."""
    with pytest.raises(ContainerError) as caught:
        engine.start(image, options=ContainerOptions.from_keywords(options))
    assert_well_formed(caught.value)
    assert engine.containers == []
    return caught.value


def test_file_over_a_file_of_the_image(start: Start, file: Path) -> None:
    container = start(mounts=[(file, "/etc/passwd")])

    assert container.path("/etc/passwd").read_text() == "the file"
    assert container.changes() == {}


def test_folder_over_a_folder_of_the_image(start: Start, folder: Path) -> None:
    container = start(mounts=[(folder, "/etc")])

    assert [path.name for path in container.path("/etc").iterdir()] == ["x"]


def test_file_of_the_start_can_be_replaced(start: Start, file: Path) -> None:
    container = start(mounts=[(file, "/etc/hosts")])

    assert container.path("/etc/hosts").read_text() == "the file"


def test_file_over_a_folder_is_refused(engine: Engine, file: Path) -> None:
    error = refusal(engine, mounts=[(file, "/etc")])

    assert error.what == f"cannot mount {file} on /etc: it is a folder in the image"


def test_folder_over_a_file_is_refused(engine: Engine, folder: Path) -> None:
    error = refusal(engine, mounts=[(folder, "/etc/passwd")])

    assert error.what == f"cannot mount {folder} on /etc/passwd: it is no folder in the image"


def test_target_below_a_file_is_refused(engine: Engine, folder: Path) -> None:
    error = refusal(engine, mounts=[(folder, "/etc/passwd/x")])

    assert error.what.endswith("/etc/passwd/x: /etc/passwd is no folder in the image")


def test_tmpfs_over_a_file_is_refused(engine: Engine) -> None:
    error = refusal(engine, tmpfs=["/etc/passwd"])

    assert error.what == "cannot mount a tmpfs on /etc/passwd: it is no folder in the image"


def test_target_behind_an_absolute_symlink(start: Start, folder: Path) -> None:
    container = start(linked("/link", "/opt/real"), mounts=[(folder, "/link")])

    assert container.path("/opt/real/x").read_text() == "in the folder"
    assert container.path("/link").readlink() == container.path("/opt/real")


def test_target_behind_a_symlink_to_a_file(start: Start, file: Path) -> None:
    image = linked("/link", "a/place", "mkdir /a; echo image > /a/place")
    container = start(image, mounts=[(file, "/link")])

    assert container.path("/a/place").read_text() == "the file"


def test_target_behind_a_dangling_component(start: Start, folder: Path) -> None:
    container = start(linked("/link", "nowhere"), mounts=[(folder, "/link/below/here")])

    assert container.path("/nowhere/below/here/x").exists()


def test_target_behind_a_symlink_that_climbs_stays_inside(start: Start, folder: Path) -> None:
    container = start(linked("/link", "../../../../opt/up"), mounts=[(folder, "/link")])

    assert container.path("/opt/up/x").exists()


def test_target_behind_a_loop_is_refused(engine: Engine, folder: Path) -> None:
    error = refusal(engine, linked("/link", "link"), mounts=[(folder, "/link")])

    assert error.what.endswith("on /link: Too many levels of symbolic links")


@pytest.mark.parametrize(
    "place", ["/proc", "/proc/self/fd", "/sys/kernel", "/dev/shm", "opt/../../proc"]
)
def test_symlink_of_the_image_to_the_kernels_files_is_refused(
    engine: Engine, folder: Path, place: str
) -> None:
    error = refusal(engine, linked("/link", place), mounts=[(folder, "/link")])

    assert "on /link: it leads to " in error.what


def test_symlink_of_the_image_to_a_device_is_refused(engine: Engine, file: Path) -> None:
    error = refusal(engine, linked("/link", "/dev/null"), mounts=[(file, "/link")])

    assert error.what.endswith("on /link: it leads to /dev/null by a symlink")


def test_tmpfs_behind_a_symlink_to_the_kernels_files_is_refused(engine: Engine) -> None:
    error = refusal(engine, linked("/link", "/proc/sys"), tmpfs=["/link"])

    assert error.what == "cannot mount a tmpfs on /link: it leads to /proc/sys by a symlink"


def test_symlink_of_a_mount_to_the_kernels_files_is_refused(engine: Engine, folder: Path) -> None:
    (folder / "link").symlink_to("/sys/kernel")
    error = refusal(engine, mounts=[(folder, "/mnt/o"), (folder, "/mnt/o/link")])

    assert error.what.endswith("on /mnt/o/link: it leads to /sys/kernel by a symlink")


def test_symlink_of_a_mount_stays_inside(start: Start, folder: Path, file: Path) -> None:
    (folder / "link").symlink_to("/etc/passwd")
    start(mounts=[(folder, "/mnt/o"), (file, "/mnt/o/link")])

    assert "the file" not in Path("/etc/passwd").read_text()


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
def test_image_whose_system_folder_is_none_is_refused(engine: Engine, name: str) -> None:
    error = refusal(engine, Image.scratch().file(f"/{name}", "a file"))

    assert (
        error.what == f"the container cannot be started: create /{name}: is no folder in the image"
    )


def test_inner_target_is_mounted_last(start: Start, folder: Path, file: Path) -> None:
    (folder / "inner").touch()

    container = start(mounts=[(file, "/mnt/o/inner"), (folder, "/mnt/o")])

    assert container.path("/mnt/o/inner").read_text() == "the file"
    assert container.path("/mnt/o/x").exists()


def test_tmpfs_lies_in_a_mount(start: Start, folder: Path) -> None:
    (folder / "cache").mkdir()

    container = start(mounts=[(folder, "/src")], tmpfs=["/src/cache"])
    container.run("echo built > /src/cache/out")

    assert container.path("/src/x").exists()
    assert list((folder / "cache").iterdir()) == []


def test_mount_point_in_a_tmpfs_is_made(start: Start, folder: Path, file: Path) -> None:
    container = start(
        tmpfs=["/scratch", "/scratch/own/tmp"],
        mounts=[(file, "/scratch/a/b/file"), (folder, "/scratch/a/folder")],
    )

    assert container.path("/scratch/a/b/file").read_text() == "the file"
    assert container.path("/scratch/a/folder/x").exists()
    assert (
        container.run(["stat", "-c%a", "/scratch/own", "/scratch/own/tmp"]).stdout == "755\n1777\n"
    )


@pytest.mark.parametrize("mode", ["ro", "rw"])
def test_mount_point_in_a_folder_of_the_host_is_not_made(
    engine: Engine, folder: Path, file: Path, mode: str
) -> None:
    error = refusal(engine, mounts=[(folder, "/mnt/o", mode), (file, "/mnt/o/inner")])

    assert error.what.endswith(
        "/mnt/o/inner: what is mounted there has no such path to mount it on"
    )
    assert sorted(os.listdir(folder)) == ["x"]


def test_mount_point_of_another_kind_in_a_mount_is_refused(engine: Engine, folder: Path) -> None:
    error = refusal(engine, mounts=[(folder, "/mnt/o"), (folder, "/mnt/o/x")])

    assert error.what.endswith("on /mnt/o/x: one is a folder and the other is not")


def test_source_may_be_mounted_twice(start: Start, folder: Path) -> None:
    container = start(mounts=[(folder, "/mnt/a"), (folder, "/mnt/b", "rw")])
    container.run("echo new > /mnt/b/y")

    assert container.path("/mnt/a/y").read_text() == "new\n"
    assert "Read-only" in container.run("echo > /mnt/a/z", check=False).stderr


@pytest.mark.parametrize(
    "options",
    [
        {"mounts": [("/var", "/x"), ("/etc", "/x/")]},
        {"tmpfs": ["/x", ("/y/../x", "1M")]},
        {"tmpfs": ["/x"], "mounts": [("/var", "/x")]},
    ],
)
def test_target_may_not_be_taken_twice(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="'/x', where something is mounted already"):
        ContainerOptions.from_keywords(options)


def test_tmpfs_keeps_the_mode_of_its_folder(start: Start) -> None:
    container = start(tmpfs=["/root", "/var/log", "/tmp", "/new", "/new/er"])

    modes = container.run("stat -c %a /root /var/log /tmp /new /new/er").stdout.split()

    assert modes == ["700", "755", "1777", "1777", "1777"]


@needs("subids")
def test_tmpfs_keeps_the_owner_of_its_folder(start: Start) -> None:
    image = Image("minimal").run("mkdir -p /home/app && chown 12:13 /home/app")
    container = start(image, tmpfs=["/home/app"])

    container.run(["touch", "/home/app/mine"], user="12")

    assert container.run(["stat", "-c%u %g %a", "/home/app"]).stdout == "12 13 755\n"


def test_tmpfs_in_a_readonly_container(start: Start, folder: Path) -> None:
    container = start(readonly=True, tmpfs=["/new"], mounts=[(folder, "/mnt/f", "rw")])

    done = container.run("touch /new/x /mnt/f/y; touch /z", check=False)

    assert "/z': Read-only file system" in done.stderr
    assert (folder / "y").exists()


@pytest.mark.parametrize("kind", ["fifo", "socket"])
def test_special_file_is_a_source(start: Start, tmp_path: Path, kind: str) -> None:
    source = tmp_path / kind
    if kind == "fifo":
        os.mkfifo(source)
    with socket.socket(socket.AF_UNIX) as listening:
        if kind == "socket":
            listening.bind(os.path.relpath(source))

        container = start(mounts=[(source, "/run/here")])

        assert container.run(["stat", "-c%F", "/run/here"]).stdout == f"{kind}\n"


@needs("root")
def test_device_of_the_host_is_refused(engine: Engine) -> None:
    error = refusal(engine, mounts=[("/dev/null", "/mnt/null")])

    assert error.what.startswith("cannot mount /dev/null: its file system takes no id map")
    assert "container.copy_in" in error.hint


def test_source_may_be_a_symlink(start: Start, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("folder")

    container = start(mounts=[(tmp_path / "link", "/mnt/here")])

    assert container.path("/mnt/here/x").exists()


def test_dangling_source_is_refused(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nonesuch")

    error = refusal(engine, mounts=[(tmp_path / "link", "/mnt/here")])

    assert error.what == f"cannot mount {tmp_path}/link: No such file or directory"


def test_source_that_vanishes_is_named(engine: Engine, folder: Path) -> None:
    shutil.rmtree(folder)

    with pytest.raises(ContainerError) as caught:
        _tree_of(engine.session, Mount(source=folder, target="/mnt/here"))

    assert_well_formed(caught.value)
    assert caught.value.what == f"cannot mount {folder}: {os.strerror(errno.ENOENT)}"
    assert caught.value.hint == "create it, or correct mounts=…"


def test_source_that_is_removed_later_stays(start: Start, folder: Path) -> None:
    container = start(mounts=[(folder, "/mnt/here")])
    container.run(["true"])
    (folder / "x").unlink()
    folder.rmdir()

    assert container.run(["ls", "/mnt/here"]).stdout == ""


@needs("ordinary user")
def test_source_closed_to_the_user_is_named(engine: Engine) -> None:
    error = refusal(engine, mounts=[("/root/x", "/mnt/here")])

    assert error.what == "cannot mount /root/x: Permission denied"


@needs("mount")
def test_mounts_of_a_container_never_reach_the_host(start: Start, folder: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    options = {"capabilities": ["+SYS_ADMIN"], "mounts": [(folder, "/mnt/here", "rw")]}
    container = start(WITH_MOUNT, **options)

    container.run("cd /mnt/here; mkdir below && mount -t tmpfs x below && touch below/x")

    assert list((folder / "below").iterdir()) == []
    assert Path("/proc/self/mountinfo").read_text() == before
