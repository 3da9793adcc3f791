"""Paths of a container as values: names, use on the host, owners by name."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from pytest_rootfs.runtime.container import Container


@pytest.mark.parametrize("use", [open, os.fspath, os.listdir])
def test_use_on_the_host_is_refused(container: Container, use: type) -> None:
    with pytest.raises(TypeError, match="/etc is a path of a container"):
        use(container.path("/etc"))


def test_path_is_taken_for_a_path(container: Container, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content\n")
    target = container.path("/opt/file")

    container.copy_in(tmp_path / "file", target)
    container.copy_out(target, tmp_path / "copy")

    assert (tmp_path / "copy").read_text() == "content\n"
    assert container.path(target) == target
    assert container.diff(target).startswith("--- /dev/null\n")


def test_source_of_the_host_cannot_be_in_the_container(container: Container) -> None:
    with pytest.raises(TypeError, match="is a path of a container"):
        container.copy_in(container.path("/etc"), "/opt")  # type: ignore[arg-type]  # as tested


def test_names_are_those_of_pathlib(container: Container) -> None:
    path = container.path("/a/b.tar.gz")

    assert path.suffixes == [".tar", ".gz"]
    assert path.match("*.gz")
    assert path.relative_to("/a") == PurePosixPath("b.tar.gz")
    assert path.is_relative_to(container.path("/a"))
    assert [str(path.with_name("c")), str(path.with_suffix(".xz"))] == ["/a/c", "/a/b.tar.xz"]


def test_links_are_resolved_in_the_container(container: Container) -> None:
    container.path("/opt/real").mkdir(parents=True)
    container.path("/opt/up").symlink_to("../opt")
    container.path("/opt/link").symlink_to("/opt/up/real")

    assert str(container.path("/opt/link/../real/none").resolve()) == "/opt/real/none"
    with pytest.raises(FileNotFoundError):
        container.path("/opt/link/none").resolve(strict=True)


def test_circle_of_links_is_an_error(container: Container) -> None:
    container.path("/tmp/a").symlink_to("b")
    container.path("/tmp/b").symlink_to("a")

    with pytest.raises(OSError, match="Too many levels"):
        container.path("/tmp/a").resolve()


def test_path_with_null_character_does_not_exist(container: Container) -> None:
    assert not container.path("/a\0b").exists()


def test_newlines_are_written_as_asked(container: Container) -> None:
    path = container.path("/tmp/file")

    path.write_text("a\n", newline="\r\n")

    assert path.read_bytes() == b"a\r\n"


def test_owner_may_be_a_name(people: Container) -> None:
    path = people.path("/tmp/file")
    path.touch()

    path.chown("root", "root")

    assert (path.stat().st_uid, path.stat().st_gid) == (0, 0)


@pytest.mark.parametrize(
    ("owner", "kind"), [("nobody-here", LookupError), (1.5, TypeError), (1 << 40, ValueError)]
)
def test_bad_owner_is_refused(container: Container, owner: int, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=str(owner)):
        container.path("/tmp").chown(owner)


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("mkdir /tmp/x", IsADirectoryError),
        ("ln -s /nowhere /tmp/x", OSError),
        ("mkfifo /tmp/x", OSError),
        ("true", FileNotFoundError),
    ],
)
def test_only_files_are_compared(container: Container, command: str, kind: type[Exception]) -> None:
    container.run(command)

    with pytest.raises(kind, match="/tmp/x"):
        container.diff("/tmp/x")


def test_unshowable_difference_is_told(container: Container) -> None:
    container.path("/tmp/x").write_bytes(b"\xff\n\0")

    assert container.diff("/tmp/x") == "Binary files a/tmp/x and b/tmp/x differ\n"


def test_paths_are_in_order(container: Container) -> None:
    first, second = container.path("/a"), container.path("/b")

    assert sorted([second, first]) == [first, second]
    assert first < second >= first
    assert second > first <= second


def test_path_has_no_order_with_a_text(container: Container) -> None:
    with pytest.raises(TypeError, match="not supported between"):
        container.path("/a") < "/b"  # type: ignore[operator]  # noqa: B015  wrong on purpose


@pytest.mark.parametrize("mode", ["755", 1 << 40])
def test_mode_that_is_none_is_refused(container: Container, mode: Any) -> None:  # Any: wrong
    with pytest.raises(ValueError, match="change '/tmp': "):
        container.path("/tmp").chmod(mode)


def test_null_character_is_no_path_to_compare(container: Container) -> None:
    with pytest.raises(ValueError, match="holds a null character"):
        container.diff("/a\0b")


def test_ignored_is_a_glob(container: Container) -> None:
    with pytest.raises(TypeError, match="ignore takes globs of paths, not 5"):
        container.changes(ignore=[5])  # type: ignore[list-item]  # wrong on purpose
