"""`ContainerPath`: pathlib's names and manners, inside the container only."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from features import needs

from pytest_rootfs.errors import ContainerDied
from pytest_rootfs.image import Image
from pytest_rootfs.runtime.container import Container
from pytest_rootfs.runtime.path import ContainerPath

if TYPE_CHECKING:
    from conftest import Start


def test_kinds_of_files(folder: ContainerPath) -> None:
    (folder / "file").touch()
    (folder / "link").symlink_to("file")
    (folder / "dangling").symlink_to("nonesuch")
    (folder / "loop").symlink_to("loop")
    names = ["file", "link", "dangling", "loop", "nonesuch", "file/below", "."]

    found = {
        name: "".join(
            letter
            for letter, is_it in zip(
                "efdl",
                (path.exists(), path.is_file(), path.is_dir(), path.is_symlink()),
                strict=True,
            )
            if is_it
        )
        for name in names
        for path in [folder / name]
    }

    assert found == {
        "file": "ef",
        "link": "efl",
        "dangling": "l",
        "loop": "l",
        "nonesuch": "",
        "file/below": "",
        ".": "ed",
    }


def test_fifo_and_socket_are_seen(container: Container) -> None:
    container.run(["mkfifo", "/tmp/fifo"])

    assert container.path("/tmp/fifo").is_fifo()
    assert not container.path("/tmp/fifo").is_file()
    assert not container.path("/tmp/fifo").is_socket()


def test_stat_follows_and_lstat_does_not(folder: ContainerPath) -> None:
    (folder / "file").write_text("12345")
    (folder / "link").symlink_to("file")

    assert (folder / "link").stat().st_size == 5
    assert stat.S_ISLNK((folder / "link").lstat().st_mode)
    assert (folder / "link").stat(follow_symlinks=False) == (folder / "link").lstat()


def test_stat_has_all_figures(folder: ContainerPath) -> None:
    before_s = time.time()
    (folder / "file").write_text("12345")

    found = (folder / "file").stat()

    assert (found.st_nlink, found.st_uid, found.st_gid, found.st_size) == (1, 0, 0, 5)
    assert oct(found.st_mode) == oct(0o100644)
    assert abs(found.st_mtime - before_s) < 5
    assert found.st_mtime_ns // 10**9 == int(found.st_mtime)
    assert found.st_blksize > 0


def test_touch_makes_an_empty_file(folder: ContainerPath) -> None:
    (folder / "x").touch()
    (folder / "y").touch(mode=0o600)

    assert (folder / "x").read_bytes() == b""
    assert stat.S_IMODE((folder / "y").stat().st_mode) == 0o600


def test_touch_renews_the_times_only(folder: ContainerPath) -> None:
    (folder / "x").write_text("content")
    (folder / "x").chmod(0o400)

    (folder / "x").touch()

    assert (folder / "x").read_text() == "content"
    assert stat.S_IMODE((folder / "x").stat().st_mode) == 0o400


def test_touch_follows_symlinks(start: Start) -> None:
    container = start(Image("minimal").file("/etc/old", "content"))
    container.path("/etc/link").symlink_to("old")
    before_ns = container.path("/etc/old").stat().st_mtime_ns

    container.path("/etc/link").touch()

    assert container.path("/etc/old").stat().st_mtime_ns > before_ns


def test_touch_makes_the_target_of_a_dangling_symlink(folder: ContainerPath) -> None:
    (folder / "link").symlink_to("target")

    (folder / "link").touch()

    assert (folder / "target").is_file()


def test_touch_may_insist_on_a_new_file(folder: ContainerPath) -> None:
    (folder / "x").touch()

    with pytest.raises(FileExistsError):
        (folder / "x").touch(exist_ok=False)


def test_mkdir_and_rmdir(folder: ContainerPath) -> None:
    (folder / "d").mkdir(mode=0o700)
    assert stat.S_IMODE((folder / "d").stat().st_mode) == 0o700

    (folder / "d").rmdir()
    assert not (folder / "d").exists()


def test_mkdir_refuses_as_pathlib_does(folder: ContainerPath) -> None:
    (folder / "file").touch()
    (folder / "d").mkdir()

    with pytest.raises(FileNotFoundError):
        (folder / "a/b").mkdir()
    with pytest.raises(FileExistsError):
        (folder / "d").mkdir()
    with pytest.raises(FileExistsError):
        (folder / "file").mkdir(exist_ok=True)
    with pytest.raises(NotADirectoryError):
        (folder / "file/below").mkdir(parents=True)


def test_mkdir_makes_parents(folder: ContainerPath) -> None:
    (folder / "a/b/c").mkdir(parents=True)
    (folder / "a/b/c").mkdir(parents=True, exist_ok=True)

    assert (folder / "a/b/c").is_dir()


@pytest.mark.slow
def test_tree_may_be_deeper_than_python_recurses(folder: ContainerPath) -> None:
    deepest = folder.joinpath(*"d" * 1100)

    deepest.mkdir(parents=True)

    assert deepest.is_dir()
    assert [*folder.rglob("*")][-1] == deepest


def test_rmdir_needs_an_empty_folder(folder: ContainerPath) -> None:
    (folder / "file").touch()

    with pytest.raises(OSError, match="not empty"):
        folder.rmdir()
    with pytest.raises(NotADirectoryError):
        (folder / "file").rmdir()


def test_unlink_removes_the_symlink_itself(folder: ContainerPath) -> None:
    (folder / "file").touch()
    (folder / "link").symlink_to("file")

    (folder / "link").unlink()

    assert [path.name for path in folder.iterdir()] == ["file"]


def test_unlink_of_nothing(folder: ContainerPath) -> None:
    (folder / "x").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError, match="/place/folder/x"):
        (folder / "x").unlink()


def test_unlink_of_a_folder(folder: ContainerPath) -> None:
    with pytest.raises(IsADirectoryError):
        folder.unlink()


def test_rename_moves_and_replaces(folder: ContainerPath) -> None:
    (folder / "a").write_text("a")
    (folder / "b").write_text("b")

    new = (folder / "a").rename(folder / "b")

    assert new == folder / "b"
    assert new.read_text() == "a"
    assert [path.name for path in folder.iterdir()] == ["b"]


def test_rename_takes_text(folder: ContainerPath) -> None:
    (folder / "a").touch()

    assert str((folder / "a").rename("/place/b")) == "/place/b"
    assert str((folder.parent / "b").rename("c")) == "/place/c"
    assert (folder.parent / "c").exists()


def test_symlinks_say_what_they_were_told(folder: ContainerPath) -> None:
    (folder / "relative").symlink_to("../x")
    (folder / "absolute").symlink_to(folder / "y")

    assert str((folder / "relative").readlink()) == "../x"
    assert str((folder / "absolute").readlink()) == "/place/folder/y"


def test_readlink_of_a_file(folder: ContainerPath) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        folder.readlink()


def test_symlink_does_not_replace(folder: ContainerPath) -> None:
    (folder / "x").touch()

    with pytest.raises(FileExistsError):
        (folder / "x").symlink_to("y")


@pytest.mark.parametrize("mode", [0o000, 0o640, 0o4755, 0o1777])
def test_chmod(folder: ContainerPath, mode: int) -> None:
    (folder / "x").touch()
    (folder / "link").symlink_to("x")

    (folder / "link").chmod(mode)

    assert stat.S_IMODE((folder / "x").stat().st_mode) == mode


@needs("subids")
def test_chown_in_the_containers_ids(folder: ContainerPath) -> None:
    (folder / "x").touch()
    (folder / "x").chown(12, 13)
    (folder / "x").chown(gid=14)

    assert ((folder / "x").stat().st_uid, (folder / "x").stat().st_gid) == (12, 14)


@needs("subids")
def test_chown_of_the_symlink_itself(folder: ContainerPath) -> None:
    (folder / "x").touch()
    (folder / "link").symlink_to("x")

    (folder / "link").chown(12, follow_symlinks=False)

    assert ((folder / "x").stat().st_uid, (folder / "link").lstat().st_uid) == (0, 12)


def test_chown_outside_the_map_is_refused(folder: ContainerPath) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        folder.chown(70000)


def test_pure_names(container: Container) -> None:
    path = container.path("/a/b.tar.gz")

    assert (path.name, path.suffix, path.stem, str(path.parent)) == (
        "b.tar.gz",
        ".gz",
        "b.tar",
        "/a",
    )
    assert path.parts == ("/", "a", "b.tar.gz")
    assert [str(parent) for parent in path.parents] == ["/a", "/"]
    assert str(path.parent.joinpath("c", "d")) == "/a/c/d"
    assert repr(path) == "ContainerPath('/a/b.tar.gz')"


def test_paths_compare_within_a_container(start: Start) -> None:
    first, second = start(), start()

    assert first.path("/a") == first.path("/") / "a"
    assert hash(first.path("/a")) == hash(first.path("/") / "a")
    assert first.path("/a") < first.path("/b")
    assert first.path("/a") != second.path("/a")
    assert first.path("/a") != "/a"


def test_relative_path_starts_at_the_working_directory(start: Start) -> None:
    container = start(workdir="/usr")

    assert str(container.path("bin")) == "/usr/bin"
    assert container.path(Path("bin/true")).exists()


def test_errors_are_those_of_pathlib(folder: ContainerPath) -> None:
    (folder / "loop").symlink_to("loop")
    (folder / "file").touch()

    with pytest.raises(FileNotFoundError, match="/place/folder/x") as missing:
        (folder / "x").read_text()
    with pytest.raises(IsADirectoryError):
        folder.read_text()
    with pytest.raises(IsADirectoryError):
        folder.write_text("x")
    with pytest.raises(NotADirectoryError):
        (folder / "file/below").read_text()
    with pytest.raises(OSError, match="symbolic links"):
        (folder / "loop").read_text()

    assert missing.value.filename == "/place/folder/x"


def test_null_character_is_refused(folder: ContainerPath) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        (folder / "a\0b").stat()


def test_too_long_name_is_refused(folder: ContainerPath) -> None:
    with pytest.raises(OSError, match="name too long"):
        (folder / ("x" * 256)).touch()


def test_undecodable_names_work(folder: ContainerPath) -> None:
    path = folder / os.fsdecode(b"\xff\xfe")
    path.write_text("x")

    assert [entry.name for entry in folder.iterdir()] == [os.fsdecode(b"\xff\xfe")]
    assert path.read_text() == "x"


@pytest.mark.parametrize(
    "target", ["/../../../../etc", "../../../../../../etc", "/etc", "/place/../../../etc"]
)
def test_symlinks_stay_inside(start: Start, target: str) -> None:
    container = start(Image.scratch().file("/etc/secret", "of the image"))
    container.path("/place").mkdir()
    container.path("/place/link").symlink_to(target)

    link = container.path("/place/link")

    assert (link / "secret").read_text() == "of the image"
    assert not (link / "shadow").exists()


def test_dots_stay_inside(container: Container) -> None:
    container.path("/../../../../written").write_text("inside")

    assert container.path("/written").read_text() == "inside"
    assert not Path("/written").exists()


@pytest.mark.parametrize(
    "path", ["/proc/self/root/etc", "/proc/1/cwd", "/proc/self/fd/0", "/dev/stdin", "/dev/fd/0"]
)
def test_magic_links_are_refused(container: Container, path: str) -> None:
    assert not container.path(path).exists()
    with pytest.raises(OSError, match=r"symbolic links|Permission denied"):
        container.path(path).stat()


def test_path_of_a_dead_container(container: Container) -> None:
    path = container.path("/etc/passwd")
    container.kill()

    with pytest.raises(ContainerDied):
        path.exists()
