"""The OCI layer that a container's changes become, entry by entry, and back again."""

from __future__ import annotations

import io
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from archives import archive, file, folder, link, names
from features import needs
from namespaced import in_user_namespace
from overlays import look, mount_overlay, mount_upper, outcome_of, tree, unpack_all

from pytest_rootfs.errors import ArchiveRejected
from pytest_rootfs.kernel import mounts, syscalls
from pytest_rootfs.store.packing import pack

pytestmark = needs("userns")

BASE = [
    folder(".", 0o711, mtime=1),
    folder("etc", 0o750, mtime=1),
    file("etc/conf", b"old\n", mtime=1),
    folder("opt", mtime=1),
    folder("opt/app", mtime=1),
    file("opt/app/a", b"a", mtime=1),
    file("opt/app/b", b"b", mtime=1),
    folder("opt/app/sub", mtime=1),
]


def test_deleted_file_becomes_whiteout(tmp_path: Path) -> None:
    outcome = outcome_of(tmp_path, [BASE], lambda: os.unlink("etc/conf"))

    assert names(outcome.archive) == ["./", "etc/", "etc/.wh.conf"]
    whiteout, _ = outcome.entries["etc/.wh.conf"]
    assert (whiteout.kind, whiteout.mode, whiteout.uid, whiteout.size) == ("file", 0, 0, 0)
    assert whiteout.mtime == 0


def test_parents_have_attributes_of_image(tmp_path: Path) -> None:
    outcome = outcome_of(tmp_path, [BASE], lambda: os.unlink("etc/conf"))

    assert [outcome.entries[name][0].mode for name in (".", "etc")] == [0o711, 0o750]


def test_new_folder_in_old_place_hides_children_one_by_one(tmp_path: Path) -> None:
    def mutation() -> None:
        shutil.rmtree("opt/app")
        os.mkdir("opt/app")
        Path("opt/app/0").touch()

    outcome = outcome_of(tmp_path, [BASE], mutation)

    assert names(outcome.archive) == [
        "./",
        "opt/",
        "opt/app/",
        "opt/app/.wh.a",
        "opt/app/.wh.b",
        "opt/app/.wh.sub",
        "opt/app/0",
    ]


def test_file_of_same_step_leaves_nothing(tmp_path: Path) -> None:
    def mutation() -> None:
        Path("opt/app/new").touch()
        os.unlink("opt/app/new")

    outcome = outcome_of(tmp_path, [BASE], mutation)

    assert names(outcome.archive) == []
    assert outcome.packed.entries == 0


def test_new_names_of_one_inode_are_linked(tmp_path: Path) -> None:
    def mutation() -> None:
        Path("opt/two").write_text("x")
        os.link("opt/two", "opt/one")

    outcome = outcome_of(tmp_path, [BASE], mutation)

    assert outcome.entries["opt/one"][0].kind == "file"
    assert outcome.entries["opt/two"][0].kind == "hardlink"
    assert outcome.entries["opt/two"][0].linkname == b"opt/one"


def test_link_to_old_file_brings_both_names(tmp_path: Path) -> None:
    outcome = outcome_of(tmp_path, [BASE], lambda: os.link("etc/conf", "etc/link"))

    assert names(outcome.archive) == ["./", "etc/", "etc/conf", "etc/link"]
    assert outcome.entries["etc/link"][0].linkname == b"etc/conf"


def test_changed_link_stays_alone(tmp_path: Path) -> None:
    base = [folder("."), file("a", b"x", mtime=1), link("b", "a", "hardlink")]

    outcome = outcome_of(tmp_path, [base], lambda: os.chmod("a", 0o600))

    assert names(outcome.archive) == ["./", "a"]


def test_times_are_clamped_and_whole(tmp_path: Path) -> None:
    def mutation() -> None:
        Path("new").touch()
        Path("old").touch()
        os.utime("old", ns=(0, 7_900_000_000))

    outcome = outcome_of(tmp_path, [BASE], mutation, clamp_mtime=1000)

    assert outcome.entries["new"][0].mtime == 1000
    assert outcome.entries["old"][0].mtime == 7


def test_socket_is_skipped_and_told(tmp_path: Path) -> None:
    outcome = outcome_of(tmp_path, [BASE], lambda: socket.socket(socket.AF_UNIX).bind("sock"))

    assert outcome.packed.skipped == ("`sock` is a socket",)
    assert outcome.packed.entries == 0


def test_attributes_without_private_ones(tmp_path: Path) -> None:
    def mutation() -> None:
        Path("f").touch()
        os.setxattr("f", "user.raw", b"\0=\n\xff")
        os.setxattr("f", "user.empty", b"")
        os.mkdir("d")
        os.rename("d", "e")

    outcome = outcome_of(tmp_path, [BASE], mutation)

    assert outcome.entries["f"][0].xattrs == {b"user.raw": b"\0=\n\xff"}
    assert outcome.entries["e"][0].xattrs == {}
    assert outcome.packed.skipped == ("attribute `user.empty`, first on `f`",)


def test_capability_is_written_for_any_namespace(tmp_path: Path) -> None:
    capability = bytes.fromhex("0100000200200000000000000000000000000000")

    def mutation() -> None:
        Path("f").touch()
        os.setxattr("f", "security.capability", capability)

    outcome = outcome_of(tmp_path, [BASE], mutation)

    assert outcome.entries["f"][0].xattrs == {b"security.capability": capability}


def test_reserved_names_are_refused(tmp_path: Path) -> None:
    def mutation() -> None:
        Path("opt/.wh.x").touch()
        Path("opt/.wh..wh..opq").touch()

    with pytest.raises(ArchiveRejected, match="2 file name"):
        outcome_of(tmp_path, [BASE], mutation)


def test_file_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    upper = tmp_path / "upper"
    upper.mkdir()
    (upper / "log").write_bytes(bytes(1 << 20))

    class Growing(io.BytesIO):
        def write(self, data: object) -> int:
            with (upper / "log").open("ab") as log:
                log.write(b"x")
            return super().write(data)  # type: ignore[arg-type]  # bytes, as pack writes

    upper_fd = os.open(upper, os.O_RDONLY)
    try:
        with pytest.raises(ArchiveRejected, match="changed while it was read"):
            pack(upper_fd, -1, Growing())
    finally:
        os.close(upper_fd)


def test_image_without_layers_packs_root(tmp_path: Path) -> None:
    (tmp_path / "upper").mkdir(mode=0o755)
    (tmp_path / "upper" / "f").touch()
    out = io.BytesIO()
    upper_fd = os.open(tmp_path / "upper", os.O_RDONLY)

    result = pack(upper_fd, -1, out)

    os.close(upper_fd)
    assert names(out.getvalue()) == ["./", "f"]
    assert result.size == len(out.getvalue())


def test_packed_layer_gives_same_tree(tmp_path: Path) -> None:
    def mutation() -> None:
        os.unlink("etc/conf")
        shutil.rmtree("opt/app")
        os.makedirs("opt/app/deep/er")
        Path("opt/app/deep/er/f").write_bytes(os.urandom(300_000))
        os.chmod("opt/app/deep/er/f", 0o4711)
        os.link("opt/app/deep/er/f", "opt/g")
        os.symlink("/etc", "opt/app/link")
        os.mkfifo("opt/pipe")
        os.chmod(".", 0o750)
        for name in ("opt/g", "opt/pipe"):
            os.utime(name, (1000, 1000))
        os.utime("opt/app/link", (1000, 1000), follow_symlinks=False)

    def job() -> Any:  # four results of four types
        place = mount_upper(tmp_path)
        upper, work, merged = place / "up", place / "work", place / "merged"
        layer_fds = unpack_all(tmp_path, [archive(*BASE)])
        mount_overlay(layer_fds, upper, work, merged)
        os.chdir(merged)
        mutation()
        os.chdir("/")
        outcome = look(upper, layer_fds)
        (tmp_path / "second").mkdir()
        top_fds = unpack_all(tmp_path / "second", [outcome.archive])
        again = tmp_path / "again"
        again.mkdir()
        view_fd = mounts.overlay_view([*top_fds, *layer_fds])
        syscalls.move_mount(view_fd, str(again))
        modes = [os.stat(path).st_mode for path in (merged, again)]
        return tree(merged), tree(again), modes, look(upper, [*top_fds, *layer_fds]).kinds

    before, after, (mode_before, mode_after), differences = in_user_namespace(job)

    assert after == before
    assert mode_after == mode_before
    assert differences == {}


def test_unpacked_layer_packs_to_same_bytes(tmp_path: Path) -> None:
    content = archive(
        folder(".", mtime=3),
        folder("a", 0o1777, mtime=4),
        file("a/f", b"x" * 1000, 0o6755, mtime=5, xattrs={b"user.overlay.x": b"1"}),
        link("a/g", "a/f", "hardlink", mode=0o6755, mtime=5),
        link("l", "a/f", mtime=6),
    )

    def job() -> bytes:
        (layer_fd,) = unpack_all(tmp_path, [content])
        out = io.BytesIO()
        pack(layer_fd, -1, out)
        return out.getvalue()

    packed = in_user_namespace(job)

    assert packed == content
