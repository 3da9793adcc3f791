"""`changes` and `diff`: what a container has made of its image."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest
from features import needs

from pytest_rootfs.engine import Engine
from pytest_rootfs.errors import ContainerDied, ContainerError
from pytest_rootfs.image import Image
from pytest_rootfs.runtime.client import PeerGone, StepFailed
from pytest_rootfs.runtime.container import Container

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Start


@pytest.fixture
def container(start: Start) -> Container:
    """Give a container whose image has a small tree in /data."""
    return start(
        Image("minimal")
        .file("/data/file", "one\ntwo\nthree\n")
        .file("/data/other", "same\n")
        .file("/data/sub/deep", "deep\n")
    )


def test_fresh_container_has_none(container: Container) -> None:
    assert container.changes() == {}


def test_reading_changes_nothing(container: Container) -> None:
    container.run("cat /data/file /data/sub/deep; ls -lR /data; stat /data")

    assert container.changes() == {}


def test_kinds_of_change(container: Container) -> None:
    container.run("echo more >> /data/file; rm /data/other; echo new > /data/new")

    changes = container.changes()

    assert changes == {"/data/file": "modified", "/data/new": "added", "/data/other": "deleted"}
    assert changes.added == ["/data/new"]
    assert changes.modified == ["/data/file"]
    assert changes.deleted == ["/data/other"]


def test_folders_made_anew_hide_files(container: Container, engine: Engine) -> None:
    """Overlayfs marks only the topmost of them, as there is nothing to hide below it."""
    container.run("rm -r /data; mkdir -p /data/sub")

    assert container.changes() == {
        "/data/file": "deleted",
        "/data/other": "deleted",
        "/data/sub/deep": "deleted",
    }
    layer, _ = container.pack_layer()
    with engine.start_built(container.built, extra_layers=[layer.digest]) as shown:
        assert shown.run(["find", "/data"]).stdout == "/data\n/data/sub\n"


def test_changes_by_path_are_seen(container: Container) -> None:
    container.path("/data/new").write_text("new")
    container.path("/data/other").unlink()

    assert container.changes() == {"/data/new": "added", "/data/other": "deleted"}


def test_change_tells_before_and_after(container: Container) -> None:
    container.run("chmod 600 /data/file; echo 12345 > /data/file")

    change = container.changes()["/data/file"]

    assert (change.path, change.kind, change.type) == ("/data/file", "modified", "file")
    assert change.before is not None and change.after is not None
    assert (change.before["mode"] & 0o7777, change.before["size"]) == (0o644, 14)
    assert (change.after["mode"] & 0o7777, change.after["size"]) == (0o600, 6)


def test_added_has_no_before_and_deleted_no_after(container: Container) -> None:
    container.run("ln -s target /data/link; rm /data/other")

    changes = container.changes()

    assert changes["/data/link"].before is None
    assert changes["/data/link"].type == "symlink"
    assert "target" in str(changes["/data/link"].after)
    assert changes["/data/other"].after is None
    assert changes["/data/other"].before is not None


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("mkdir /data/x", "dir"),
        ("ln -s a /data/x", "symlink"),
        ("mkfifo /data/x", "fifo"),
        ("echo > /data/x", "file"),
    ],
)
def test_types_of_files(container: Container, command: str, kind: str) -> None:
    container.run(command)

    assert container.changes()["/data/x"].type == kind


def test_folder_with_new_entries_is_not_modified(container: Container) -> None:
    container.run("mkdir -p /data/sub/a/b; echo > /data/sub/a/b/c")

    assert list(container.changes()) == ["/data/sub/a", "/data/sub/a/b", "/data/sub/a/b/c"]


def test_mode_of_a_folder_counts(container: Container) -> None:
    container.run("chmod 700 /data/sub")

    assert container.changes() == {"/data/sub": "modified"}


def test_mode_of_the_root_folder_counts(container: Container) -> None:
    container.run("chmod 700 /")

    assert container.changes() == {"/": "modified"}


@needs("subids")
def test_owner_counts(container: Container) -> None:
    container.run("chown 12 /data/sub; chown :13 /data/file")

    assert container.changes() == {"/data/file": "modified", "/data/sub": "modified"}


def test_same_mode_again_is_no_change(container: Container) -> None:
    container.run("chmod 644 /data/file; chmod 755 /data/sub")

    assert container.changes() == {}


def test_time_of_a_folder_does_not_count(container: Container) -> None:
    container.run("touch /data/sub; echo > /data/sub/x; rm /data/sub/x")

    assert container.changes() == {}


def test_deleted_folder_is_one_change(container: Container) -> None:
    container.run("rm -r /data/sub")

    changes = container.changes()

    assert changes.deleted[0] == "/data/sub"
    assert set(changes.deleted) <= {"/data/sub", "/data/sub/deep"}


def test_replaced_folder_hides_its_old_entries(container: Container) -> None:
    container.run("rm -r /data/sub; mkdir /data/sub; echo > /data/sub/new")

    changes = container.changes()

    assert changes["/data/sub/new"].kind == "added"
    assert changes["/data/sub/deep"].kind == "deleted"


def test_file_that_becomes_a_folder(container: Container) -> None:
    container.run("rm /data/file; mkdir /data/file; echo > /data/file/x")

    changes = container.changes()

    assert changes["/data/file"].kind == "modified"
    assert changes["/data/file"].type == "dir"
    assert changes["/data/file/x"].kind == "added"


def test_added_and_removed_again_is_no_change(container: Container) -> None:
    container.run("echo > /data/x; rm /data/x; mkdir /data/y; rmdir /data/y")

    assert container.changes() == {}


def test_renamed_file_is_added_and_deleted(container: Container) -> None:
    container.run("mv /data/file /data/moved")

    assert container.changes() == {"/data/file": "deleted", "/data/moved": "added"}


def test_renamed_folder_is_added_and_deleted(container: Container) -> None:
    container.run("mv /data/sub /data/moved")

    changes = container.changes()

    assert changes["/data/moved/deep"].kind == "added"
    assert "/data/sub" in changes.deleted


def test_files_of_the_init_layer_never_appear(container: Container) -> None:
    container.run(
        "echo x >> /etc/hosts; echo x > /etc/hostname; rm -f /etc/resolv.conf; echo x > /dev/x"
    )

    assert container.changes() == {}


def test_file_systems_never_appear(start: Start, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    container = start(tmpfs=["/scratch"], mounts=[(tmp_path / "shared", "/shared/here")])
    container.run("echo > /scratch/x; echo > /dev/shm/x; ls /shared/here")

    assert container.changes() == {}


def test_ignored_paths_do_not_appear(container: Container) -> None:
    container.run("mkdir /data/log; echo > /data/log/x; echo > /data/y.pyc; echo > /data/z")

    assert list(container.changes(ignore=["/data/log/**", "*.pyc"])) == [
        "/data/log",
        "/data/y.pyc",
        "/data/z",
    ]
    assert list(container.changes(ignore=["/data/log", "/data/log/**", "**/*.pyc"])) == ["/data/z"]
    assert list(container.changes(ignore="/data/**")) == []


def test_changes_are_sorted(container: Container) -> None:
    container.run("touch /data/b /data/a /data/sub/c /a /z")

    assert list(container.changes()) == sorted(container.changes())


def test_undecodable_name_appears(container: Container) -> None:
    container.run(["sh", "-c", "touch /data/$(printf '\\377')"])

    assert container.changes().added == ["/data/\udcff"]


def test_changes_of_a_dead_container(container: Container) -> None:
    container.run("echo > /data/new")
    container.kill()

    assert container.changes() == {"/data/new": "added"}
    assert container.diff("/data/file") == ""


def test_changes_of_a_closed_container(container: Container) -> None:
    container.close()

    with pytest.raises(ContainerDied, match="closed"):
        container.changes()
    with pytest.raises(ContainerDied, match="closed"):
        container.diff("/data/file")


@pytest.mark.slow
def test_files_may_vanish_meanwhile(container: Container) -> None:
    churn = "while :; do touch /data/x1 /data/x2; rm /data/x*; mkdir /data/x; rmdir /data/x; done"
    container.run(f"for i in 1 2 3; do ({churn}) >/dev/null 2>&1 & done")

    for _ in range(30):
        changes = container.changes()

        assert {path[:7] for path in changes} <= {"/data/x"}


def test_diff_of_a_text(container: Container) -> None:
    container.run("sed -i s/two/TWO/ /data/file")

    assert container.diff("/data/file") == (
        "--- a/data/file\n+++ b/data/file\n@@ -1,3 +1,3 @@\n one\n-two\n+TWO\n three\n"
    )


def test_diff_of_the_same(container: Container) -> None:
    assert container.diff("/data/file") == ""


def test_diff_of_an_added_file(container: Container) -> None:
    container.run("echo new > /data/new")

    assert container.diff("/data/new") == ("--- /dev/null\n+++ b/data/new\n@@ -0,0 +1 @@\n+new\n")


def test_diff_of_a_deleted_file(container: Container) -> None:
    container.run("rm /data/other")

    assert container.diff("/data/other") == (
        "--- a/data/other\n+++ /dev/null\n@@ -1 +0,0 @@\n-same\n"
    )


def test_diff_marks_a_missing_newline(container: Container) -> None:
    container.path("/data/other").write_text("same")

    assert container.diff("/data/other").splitlines()[3:] == [
        "-same",
        "+same",
        "\\ No newline at end of file",
    ]


def test_diff_of_binary_files(container: Container) -> None:
    container.path("/data/other").write_bytes(b"\0")

    expected = "Binary files a/data/other and b/data/other differ\n"
    assert container.diff("/data/other") == expected


def test_diff_of_a_huge_file_reads_nothing(container: Container) -> None:
    container.run("truncate -s 100G /data/other")

    assert container.diff("/data/other") == (
        f"/data/other is too large to compare: 5 -> {100 << 30} bytes\n"
    )


def test_diff_of_strange_text(container: Container) -> None:
    container.path("/data/other").write_bytes(b"a\rb\x0cc\xff\n")

    assert container.diff("/data/other").splitlines(keepends=False)[3] == "-same"
    assert "No newline" not in container.diff("/data/other")


def test_diff_follows_symlinks_inside(container: Container) -> None:
    container.path("/data/link").symlink_to("file")
    container.run("echo four >> /data/file")

    assert "+four\n" in container.diff("/data/link")


def test_diff_of_nothing(container: Container) -> None:
    with pytest.raises(FileNotFoundError, match="/nonesuch"):
        container.diff("/nonesuch")


def test_diff_of_a_relative_path(start: Start) -> None:
    container = start(Image("minimal").file("/data/x", "a\n"), workdir="/data")
    container.run("echo b >> x")

    assert container.diff("x").endswith(" a\n+b\n")


def test_containers_do_not_share_changes(start: Start) -> None:
    image = Image("minimal").file("/data/x", "a\n")
    first, second = start(image), start(image)
    first.run("echo b > /data/x")

    assert second.changes() == {}
    assert second.path("/data/x").read_text() == "a\n"


REFUSED = {"step": "job", "errno": errno.EAGAIN, "text": "try again", "subject": "clone3 0x0"}


@pytest.mark.parametrize(
    ("error", "says", "hint"),
    [
        (PeerGone("end of file"), "the process that looks was killed", "`dmesg` tells"),
        (StepFailed(REFUSED), "job clone3 0x0: try again", "raise `ulimit -u`"),
    ],
)
def test_want_of_a_process_to_compare_is_told(
    container: Container, monkeypatch: pytest.MonkeyPatch, error: Exception, says: str, hint: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("pytest_rootfs.runtime.session.Session.job", refuse)

    with pytest.raises(ContainerError, match=f"container cannot be looked at: {says}") as raised:
        container.changes()
    assert hint in raised.value.hint
