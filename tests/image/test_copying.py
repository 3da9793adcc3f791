"""What a copy takes from the host, and what it refuses."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from features import needs

from pytest_rootfs.errors import RecipeError
from pytest_rootfs.image import Image
from pytest_rootfs.image.copying import gather_copy
from pytest_rootfs.image.gathering import Gatherer, digest_if_unchanged, memory_of
from pytest_rootfs.image.steps import CopyStep
from pytest_rootfs.image.trees import Tree, entry_pieces


def copied(source: Path, **options: object) -> Tree:
    (step,) = Image("minimal").copy(source, "/opt", **options).steps  # type: ignore[arg-type]  # keywords of one call
    assert isinstance(step, CopyStep)
    return gather_copy(step)


def listing(tree: Tree) -> list[tuple[bytes, str, int]]:
    return [(entry.path, entry.kind, entry.mode) for entry in tree.entries]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "app"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "tool").write_text("#!/bin/sh\n")
    (folder / "bin" / "tool").chmod(0o4775)
    (folder / "data").write_text("x")
    (folder / "data").chmod(0o600)
    (folder / "link").symlink_to("/etc/passwd")
    return folder


def test_modes_are_reduced(folder: Path) -> None:
    tree = copied(folder)

    assert listing(tree) == [
        (b"", "dir", 0o755),
        (b"bin", "dir", 0o755),
        (b"bin/tool", "file", 0o755),
        (b"data", "file", 0o644),
        (b"link", "symlink", 0o777),
    ]


def test_given_mode_lets_folders_be_entered(folder: Path) -> None:
    tree = copied(folder, mode=0o640, owner="7:8")

    assert {(entry.kind, entry.mode) for entry in tree.entries} == {
        ("dir", 0o750),
        ("file", 0o640),
        ("symlink", 0o777),
    }
    assert {entry.owner for entry in tree.entries} == {(7, 8)}


def test_links_are_never_followed(folder: Path) -> None:
    (folder / "etc").symlink_to("/etc")

    tree = copied(folder)

    links = {entry.path: entry.linkname for entry in tree.entries if entry.kind == "symlink"}
    assert links == {b"link": b"/etc/passwd", b"etc": b"/etc"}
    assert not any(entry.path.startswith(b"etc/") for entry in tree.entries)


def test_named_source_may_be_a_link(folder: Path) -> None:
    alias = folder.with_name("alias")
    alias.symlink_to("app")

    assert listing(copied(alias)) == listing(copied(folder))


def test_same_content_has_same_digest(folder: Path, tmp_path: Path) -> None:
    twin = tmp_path / "elsewhere" / "app"
    (twin / "bin").mkdir(parents=True)
    (twin / "data").write_text("x")
    (twin / "link").symlink_to("/etc/passwd")
    (twin / "bin" / "tool").write_text("#!/bin/sh\n")
    (twin / "bin" / "tool").chmod(0o700)
    os.utime(twin / "data", (0, 0))

    assert copied(twin).digest == copied(folder).digest


def test_ignored_is_left_out(folder: Path) -> None:
    tree = copied(folder, ignore=["bin/*", "link"])

    assert [entry.path for entry in tree.entries] == [b"", b"bin", b"data"]


def test_names_need_not_be_text(folder: Path) -> None:
    name = b"caf\xe9\n"
    (folder / os.fsdecode(name)).write_text("x")

    tree = copied(folder)

    assert name in [entry.path for entry in tree.entries]
    assert isinstance(tree.digest, str)


def test_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="nowhere does not exist") as caught:
        copied(tmp_path / "nowhere")

    assert "current directory" in caught.value.hint


def test_socket_is_refused(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "s"))

        with pytest.raises(RecipeError, match=r"/s: it is a socket"):
            copied(folder)


def test_pipe_is_refused(folder: Path) -> None:
    os.mkfifo(folder / "p")

    with pytest.raises(RecipeError, match=r"/p: it is a pipe"):
        copied(folder)


def test_whiteout_name_is_refused(folder: Path) -> None:
    (folder / ".wh.x").write_text("")

    with pytest.raises(RecipeError, match=r"\.wh\.x: a name that starts with `\.wh\.`"):
        copied(folder)


@needs("ordinary user")
def test_unreadable_file_is_named(folder: Path) -> None:
    (folder / "data").chmod(0)

    with pytest.raises(RecipeError, match=r"cannot read .*/data: Permission denied"):
        copied(folder)


def test_changed_file_is_noticed_when_written(folder: Path) -> None:
    (entry,) = copied(folder / "data").entries
    (folder / "data").write_text("y")

    with pytest.raises(RecipeError, match="changed while it was being copied"):
        b"".join(entry_pieces(entry))


def test_swapped_link_is_not_read(folder: Path) -> None:
    (entry,) = copied(folder / "data").entries
    (folder / "data").unlink()
    (folder / "data").symlink_to("/etc/passwd")

    with pytest.raises(RecipeError, match=r"cannot read .*/data"):
        b"".join(entry_pieces(entry))


def test_memory_holds_until_something_changes(folder: Path) -> None:
    (step,) = Image("minimal").copy(folder, "/opt").steps
    assert isinstance(step, CopyStep)
    tree = Gatherer().gather(step)
    memory = memory_of(tree)

    before = digest_if_unchanged(memory)
    (folder / "bin" / "new").write_text("")
    after = digest_if_unchanged(memory)

    assert before == tree.digest
    assert after is None


def test_young_tree_is_not_settled(folder: Path) -> None:
    assert not copied(folder).is_settled
