"""`copy_in` and `copy_out`: trees between host and container."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from features import needs

from pytest_rootfs.runtime.container import Container

if TYPE_CHECKING:
    from conftest import Start


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Give a folder with a file, a program, a symlink, a folder and an empty one."""
    top = tmp_path / "tree"
    (top / "sub").mkdir(parents=True)
    (top / "empty").mkdir()
    (top / "file").write_text("content\n")
    (top / "sub/program").write_text("#!/bin/sh\necho runs\n")
    (top / "sub/program").chmod(0o750)
    (top / "sub").chmod(0o700)
    (top / "link").symlink_to("sub/program")
    return top


def listing(top: Path) -> dict[str, str]:
    found = {}
    for path in sorted(top.rglob("*")):
        mode = path.lstat().st_mode
        content = (
            os.readlink(path)
            if path.is_symlink()
            else f"{stat.S_IMODE(mode):o} {path.read_text() if path.is_file() else ''}"
        )
        found[str(path.relative_to(top))] = f"{stat.filemode(mode)[0]} {content}"
    return found


def test_file_goes_in_under_a_new_name(container: Container, tree: Path) -> None:
    container.copy_in(tree / "file", "/a/b/c")

    assert container.path("/a/b/c").read_text() == "content\n"


def test_file_goes_into_a_folder(container: Container, tree: Path) -> None:
    container.copy_in(tree / "file", "/opt")
    container.copy_in(tree / "file", "/new/")

    assert container.path("/opt/file").is_file()
    assert container.path("/new/file").is_file()


def test_file_replaces_a_file(container: Container, tree: Path) -> None:
    container.path("/opt/x").write_text("much longer content than before\n")

    container.copy_in(str(tree / "file"), "/opt/x")

    assert container.path("/opt/x").read_text() == "content\n"


def test_modes_stay_and_owner_is_root(container: Container, tree: Path) -> None:
    container.copy_in(tree, "/opt/tree")

    done = container.run("cd /opt/tree; stat -c '%n %a %u:%g' file sub sub/program; ./link")

    assert done.stdout.splitlines() == [
        "file 644 0:0",
        "sub 700 0:0",
        "sub/program 750 0:0",
        "runs",
    ]


def test_folder_goes_into_an_existing_folder(container: Container, tree: Path) -> None:
    container.copy_in(tree, "/opt")

    assert container.path("/opt/tree/file").is_file()


def test_symlinks_stay_symlinks(container: Container, tree: Path) -> None:
    container.copy_in(tree, "/opt/tree")
    container.copy_in(tree / "link", "/opt/single")

    assert str(container.path("/opt/tree/link").readlink()) == "sub/program"
    assert str(container.path("/opt/single").readlink()) == "sub/program"


def test_copying_twice_is_allowed(container: Container, tree: Path) -> None:
    container.copy_in(tree, "/opt/")
    (tree / "file").write_text("newer\n")

    container.copy_in(tree, "/opt/")

    assert container.path("/opt/tree/file").read_text() == "newer\n"


def test_missing_source(container: Container, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        container.copy_in(tmp_path / "nonesuch", "/x")
    with pytest.raises(FileNotFoundError, match="/nonesuch"):
        container.copy_out("/nonesuch", tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_special_file_is_refused(container: Container, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    container.run(["mkfifo", "/tmp/fifo"])

    with pytest.raises(OSError, match="only files, folders and symlinks"):
        container.copy_in(tmp_path / "fifo", "/x")
    with pytest.raises(OSError, match="only files, folders and symlinks"):
        container.copy_out("/tmp/fifo", tmp_path / "out")


def test_tree_comes_back_unchanged(container: Container, tree: Path, tmp_path: Path) -> None:
    container.copy_in(tree, "/opt/tree")

    container.copy_out("/opt/tree", tmp_path / "copy")

    assert listing(tmp_path / "copy") == listing(tree)


def test_tree_needs_no_program_in_the_image(empty: Container, tree: Path, tmp_path: Path) -> None:
    empty.copy_in(tree, "/tree")

    empty.copy_out("/tree", tmp_path / "copy")

    assert listing(tmp_path / "copy") == listing(tree)


def test_file_comes_into_a_folder(container: Container, tmp_path: Path) -> None:
    container.copy_out("/etc/passwd", tmp_path)
    container.copy_out("/etc/passwd", f"{tmp_path}/new/")
    container.copy_out("/etc/passwd", tmp_path / "parents/are/made")

    assert (tmp_path / "passwd").read_bytes() == container.path("/etc/passwd").read_bytes()
    assert (tmp_path / "new/passwd").is_file()
    assert (tmp_path / "parents/are/made").is_file()


def test_copies_belong_to_whoever_runs_this(container: Container, tmp_path: Path) -> None:
    container.copy_out("/etc/passwd", tmp_path / "x")

    found = (tmp_path / "x").stat()
    assert (found.st_uid, found.st_gid) == (os.getuid(), os.getgid())


@needs("subids")
def test_files_of_other_users_come_out(container: Container, tmp_path: Path) -> None:
    container.run("mkdir /tmp/d; echo x > /tmp/d/x; chmod 0600 /tmp/d/x; chown -R 12:13 /tmp/d")

    container.copy_out("/tmp/d", tmp_path / "d")

    assert (tmp_path / "d/x").read_text() == "x\n"
    assert (tmp_path / "d/x").stat().st_uid == os.getuid()


def test_set_id_bits_stay_inside(container: Container, tmp_path: Path) -> None:
    container.run("cp /bin/true /tmp/x; chmod 6755 /tmp/x")

    container.copy_out("/tmp/x", tmp_path)

    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o755


@needs("root")
def test_device_keeps_its_mode(container: Container, tmp_path: Path) -> None:
    device = tmp_path / "null"
    os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    device.chmod(0o666)
    container.path("/tmp/secret").write_text("x")
    container.path("/tmp/secret").chmod(0o600)

    container.copy_out("/tmp/secret", device)

    assert stat.S_IMODE(device.stat().st_mode) == 0o666


@needs("root")
def test_full_disk_names_the_file(container: Container, tmp_path: Path) -> None:
    container.path("/tmp/file").write_text("x")
    full = tmp_path / "full"  # never the machine's own, which a defect could damage
    os.mknod(full, 0o600 | stat.S_IFCHR, os.makedev(1, 7))

    with pytest.raises(OSError, match="No space left") as caught:
        container.copy_out("/tmp/file", full)

    assert caught.value.filename == str(full)


def test_named_symlink_is_followed_inside(container: Container, tmp_path: Path) -> None:
    container.path("/opt/link").symlink_to("/etc/hostname")

    container.copy_out("/opt/link", tmp_path / "x")

    assert (tmp_path / "x").read_text() == "rootfs\n"


def test_hostile_symlink_does_not_lead_out(container: Container, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("untouched")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/x").symlink_to(tmp_path / "victim")
    container.path("/d").mkdir()
    container.path("/d/x").write_text("overwritten")

    with pytest.raises(OSError, match="symbolic links"):
        container.copy_out("/d/x", tmp_path / "out/x")

    assert (tmp_path / "victim").read_text() == "untouched"


def test_nameless_source_comes_out_as_root(container: Container, tmp_path: Path) -> None:
    container.path("/d/sub").mkdir(parents=True)
    container.path("/d/planted").write_text("hostile")

    container.copy_out("/d/sub/..", f"{tmp_path}/out/")

    assert os.listdir(tmp_path / "out") == ["root"]
    assert (tmp_path / "out/root/planted").is_file()


@pytest.mark.parametrize("source", [".", "sub/.."])
def test_nameless_source_goes_in_by_its_name(
    container: Container, tree: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.chdir(tree)

    container.copy_in(source, "/opt/")

    assert container.path("/opt/tree/file").is_file()


def test_earlier_copy_does_not_lead_out(container: Container, tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    container.path("/d").mkdir()
    container.path("/d/x").symlink_to(tmp_path / "private")
    container.copy_out("/d", tmp_path / "copy")
    container.path("/d/x").unlink()
    container.path("/d/x").mkdir()
    container.path("/d/x/planted").write_text("hostile")

    container.copy_out("/d/", f"{tmp_path}/")
    container.run("cp -r /d /copy")
    container.copy_out("/copy", tmp_path)

    assert list((tmp_path / "private").iterdir()) == []
    assert (tmp_path / "copy/x/planted").is_file()


def test_unreadable_folder_on_the_way_out(container: Container, tmp_path: Path) -> None:
    container.run("mkdir /tmp/d; echo x > /tmp/d/x; chmod 0500 /tmp/d")

    container.copy_out("/tmp/d", tmp_path / "d")

    assert (tmp_path / "d/x").read_text() == "x\n"
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o500


def test_undecodable_names_pass(container: Container, tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff")
    container.path("/d").mkdir()
    (container.path("/d") / name).write_text("x")

    container.copy_out("/d", tmp_path / "d")
    container.copy_in(tmp_path / "d", "/e")

    assert (container.path("/e") / name).read_text() == "x"


def test_readonly_container_refuses(start: Start, tree: Path) -> None:
    container = start(readonly=True)

    with pytest.raises(OSError, match="Read-only file system"):
        container.copy_in(tree, "/opt/tree")


def test_empty_path_of_the_host_is_nothing(container: Container) -> None:
    with pytest.raises(FileNotFoundError):
        container.copy_in("", "/copy")
    with pytest.raises(FileNotFoundError):
        container.copy_out("/etc/passwd", "")

    assert not container.path("/copy").exists()


@pytest.mark.slow
def test_tree_deeper_than_python_recurses(container: Container, tmp_path: Path) -> None:
    top = tmp_path / "in"
    folder = top
    for _ in range(1400):
        folder.mkdir()
        folder /= "d"
    folder.write_text("found")

    container.copy_in(top, "/tmp/deep")
    container.copy_out("/tmp/deep", tmp_path / "out")

    file = folder.relative_to(top)
    assert container.path(f"/tmp/deep/{file}").read_text() == "found"
    assert (tmp_path / "out" / file).read_text() == "found"
    subprocess.run(["rm", "-rf", top, tmp_path / "out"], check=True)  # as shutil cannot


def test_failed_copy_leaves_no_folder_open(container: Container, tmp_path: Path) -> None:
    (tmp_path / "in/a").mkdir(parents=True)
    (tmp_path / "in/a").chmod(0o700)
    os.mkfifo(tmp_path / "in/b")
    with pytest.raises(OSError, match="only files"):
        container.copy_in(tmp_path / "in", "/copy")
    container.run("mkdir -p /out/a && chmod 700 /out/a && mkfifo /out/a/pipe")
    with pytest.raises(OSError, match="only files"):
        container.copy_out("/out", tmp_path / "out")

    assert stat.S_IMODE(container.path("/copy/a").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "out/a").stat().st_mode) == 0o700
