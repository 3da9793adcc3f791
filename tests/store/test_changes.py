"""What a container did to a real overlay, told path by path."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from archives import file, folder, link
from features import needs
from namespaced import in_user_namespace
from overlays import Outcome, outcome_of

from pytest_rootfs.errors import ArchiveRejected
from pytest_rootfs.store.changes import diff
from pytest_rootfs.store.uppers import Sides

pytestmark = needs("userns")

LOWER = [
    folder(".", mtime=1),
    folder("etc", 0o750, mtime=1),
    file("etc/conf", b"old\n", mtime=1),
    file("etc/other", b"other\n", mtime=1),
    link("etc/link", "conf"),
    folder("opt", mtime=1),
    folder("opt/app", mtime=1),
    file("opt/app/bin", b"binary", 0o755, mtime=1),
]
TOP = [folder("."), folder("opt"), file("opt/top", b"top"), file("opt/.wh.gone", mode=0)]


def after(tmp_path: Path, mutation: Callable[[], None]) -> Outcome:
    return outcome_of(tmp_path, [LOWER, TOP], mutation)


def write(path: str, text: str) -> Callable[[], None]:
    def mutation() -> None:
        Path(path).write_text(text)

    return mutation


def touch_and_restore() -> None:
    os.utime("etc/conf", (5, 5))
    os.utime("etc/conf", (1, 1))


def rewrite_with_old_time() -> None:
    Path("etc/conf").write_text("new\n")
    os.utime("etc/conf", (1, 1))


def replace_folder() -> None:
    shutil.rmtree("opt/app")
    os.mkdir("opt/app")
    Path("opt/app/new").touch()


def recreate_identical() -> None:
    shutil.rmtree("opt/app")
    os.mkdir("opt/app")
    Path("opt/app/bin").write_bytes(b"binary")
    os.chmod("opt/app/bin", 0o755)
    os.utime("opt/app/bin", (1, 1))


def file_to_folder() -> None:
    os.unlink("etc/conf")
    os.mkdir("etc/conf")
    Path("etc/conf/x").touch()


def folder_to_file() -> None:
    shutil.rmtree("opt/app")
    Path("opt/app").touch()


def create_and_delete() -> None:
    Path("new").touch()
    os.unlink("new")


def rename_new_folder() -> None:
    os.mkdir("brand")
    Path("brand/x").touch()
    os.rename("brand", "brand2")


def append() -> None:
    with open("opt/top", "a") as out:
        out.write("!")


@pytest.mark.parametrize(
    ("mutation", "expected"),
    [
        (lambda: None, {}),
        (write("etc/new", "x"), {"/etc/new": "added"}),
        (write("etc/conf", "new\n"), {"/etc/conf": "modified"}),
        (write("etc/conf", "longer than old\n"), {"/etc/conf": "modified"}),
        (append, {"/opt/top": "modified"}),
        (lambda: os.unlink("etc/conf"), {"/etc/conf": "deleted"}),
        (lambda: shutil.rmtree("opt/app"), {"/opt/app": "deleted"}),
        (lambda: os.chmod("etc/conf", 0o600), {"/etc/conf": "modified"}),
        (lambda: os.chmod("etc", 0o755), {"/etc": "modified"}),
        (lambda: os.chmod(".", 0o700), {"/": "modified"}),
        (lambda: os.utime("etc/conf", (5, 5)), {"/etc/conf": "modified"}),
        (lambda: os.utime("etc", (5, 5)), {}),
        (lambda: os.setxattr("etc/conf", "user.x", b"1"), {"/etc/conf": "modified"}),
        (lambda: os.setxattr("etc", "user.x", b"1"), {"/etc": "modified"}),
        (touch_and_restore, {}),
        (rewrite_with_old_time, {"/etc/conf": "modified"}),
        (create_and_delete, {}),
        (lambda: os.makedirs("a/b"), {"/a": "added", "/a/b": "added"}),
        (
            lambda: os.rename("etc/conf", "etc/moved"),
            {"/etc/conf": "deleted", "/etc/moved": "added"},
        ),
        (lambda: os.link("etc/conf", "etc/hard"), {"/etc/hard": "added"}),
        (replace_folder, {"/opt/app/bin": "deleted", "/opt/app/new": "added"}),
        (recreate_identical, {}),
        (file_to_folder, {"/etc/conf": "modified", "/etc/conf/x": "added"}),
        (folder_to_file, {"/opt/app": "modified"}),
        (rename_new_folder, {"/brand2": "added", "/brand2/x": "added"}),
        (lambda: os.symlink("x", "opt/gone"), {"/opt/gone": "added"}),
        (lambda: os.mkfifo("pipe"), {"/pipe": "added"}),
        (lambda: socket.socket(socket.AF_UNIX).bind("sock"), {"/sock": "added"}),
    ],
)
def test_mutation_is_reported(
    tmp_path: Path, mutation: Callable[[], None], expected: dict[str, str]
) -> None:
    outcome = after(tmp_path, mutation)

    assert outcome.kinds == expected
    assert (outcome.packed.entries > 0) is bool(expected.keys() - {"/sock"})


def test_states_tell_before_and_after(tmp_path: Path) -> None:
    def mutation() -> None:
        os.unlink("etc/link")
        os.symlink("other", "etc/link")

    outcome = after(tmp_path, mutation)

    (record,) = outcome.changes
    assert record.type == "symlink"
    assert record.before is not None and record.before.target == "conf"
    assert record.after is not None and record.after.target == "other"
    assert json.loads(json.dumps(record.as_json()))["before"]["target"] == "conf"


def test_undecodable_name_survives_json(tmp_path: Path) -> None:
    outcome = after(tmp_path, lambda: os.close(os.open(b"\xe9\n", os.O_CREAT)))

    (record,) = outcome.changes
    assert os.fsencode(json.loads(json.dumps(record.as_json()))["path"]) == b"/\xe9\n"


def test_hidden_paths_never_appear(tmp_path: Path) -> None:
    def mutation() -> None:
        Path("etc/conf").write_text("init layer")
        os.unlink("etc/other")
        os.makedirs("dev/shm")
        Path("dev/null").touch()

    hidden = [b"/etc/conf", b"etc/other", b"/dev"]
    outcome = outcome_of(tmp_path, [LOWER], mutation, hidden=hidden)

    assert outcome.kinds == {}
    assert outcome.packed.entries == 0


def test_image_of_one_layer_hides_its_own_whiteouts(tmp_path: Path) -> None:
    layer = [folder("."), folder("d"), file("d/.wh.f", mode=0)]

    outcome = outcome_of(tmp_path, [layer], lambda: Path("d/f").touch())

    assert outcome.kinds == {"/d/f": "added"}


@pytest.mark.parametrize("name", ["redirect", "metacopy"])
def test_foreign_reference_is_refused(tmp_path: Path, name: str) -> None:
    attribute = ("etc/conf", f"user.overlay.{name}", b"/x")

    with pytest.raises(ArchiveRejected, match=f"`etc/conf`.*only a reference.*{name}"):
        outcome_of(
            tmp_path, [LOWER], lambda: os.chmod("etc/conf", 0o600), upper_attributes=[attribute]
        )


def test_attribute_whiteout_is_deletion(tmp_path: Path) -> None:
    def mutation() -> None:
        Path("etc/conf").write_text("")

    attribute = ("etc/conf", "user.overlay.whiteout", b"y")
    outcome = outcome_of(tmp_path, [LOWER], mutation, upper_attributes=[attribute])

    assert outcome.kinds == {"/etc/conf": "deleted"}


@pytest.mark.slow
def test_deep_tree_is_compared(deep_path: Path) -> None:
    def mutation() -> None:
        home = os.getcwd()
        for _ in range(600):
            os.mkdir("d")
            os.chdir("d")
        os.chdir(home)

    outcome = outcome_of(deep_path, [LOWER], mutation)

    assert len(outcome.changes) == 600


@needs("root")
def test_unreadable_file_of_host_can_be_deleted(tmp_path: Path) -> None:
    for name in ("upper", "base"):
        (tmp_path / name).mkdir()
    (tmp_path / "base" / "secret").touch(0o600)
    os.chown(tmp_path / "base" / "secret", 70000, 70000)
    os.mknod(tmp_path / "upper" / "secret", stat.S_IFCHR, 0)

    def job() -> list[tuple[str, str]]:
        upper_fd, base_fd = (os.open(tmp_path / name, os.O_RDONLY) for name in ("upper", "base"))
        changes = diff(Sides(upper_fd=upper_fd, base_fd=base_fd))
        return [(record.path, record.kind) for record in changes]

    assert in_user_namespace(job) == [("/secret", "deleted")]
