"""L70: others make the same trees of our layers, and what was unpacked packs to the same bytes."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from stat import S_IFLNK
from typing import Any

import pytest
from archives import archive, file, folder, link, node, with_checksums
from features import needs
from judges import podman_tree, umoci_tree
from namespaced import in_user_namespace
from overlays import look, mount_overlay, mount_upper, outcome_of, unpack_all, view_of
from snapshots import Snapshot, as_mounted, snapshot, without_owners

from pytest_rootfs.kernel import mounts
from pytest_rootfs.store.packing import pack
from pytest_rootfs.store.uppers import Sides

pytestmark = [needs("userns"), pytest.mark.slow]

CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
IS_ROOT = os.getuid() == 0
TO_F: Any = {"kind": "hardlink", "linkname": b"a/f"}  # fields of Entry
OWN = archive(
    folder(".", 0o711, mtime=3),
    folder("a", 0o1777, mtime=4),
    file("a/empty", mtime=0),
    file("a/f", b"x" * 1000, 0o6755, mtime=5, uid=7, gid=8, xattrs={b"user.x": b"1\0="}),
    (replace(file("a/g", mode=0o6755, mtime=5, uid=7, gid=8)[0], **TO_F), b""),
    file("a/zeros", bytes(1 << 20), mtime=6),
    link("l", "a/f", mtime=6),
    link("m", "l", "hardlink", mtime=6),
    node("p", "fifo"),
    folder("z" * 120, mtime=7),
    file("z" * 120 + "/" + "n" * 200, b"n", mtime=2**33),
)
TOP = archive(
    folder(".", 0o755, mtime=9),
    file(".wh.l", mode=0),
    folder("a", 0o700, mtime=10),
    file("a/.wh.f", mode=0),
    file("a/.wh.zeros", mode=0),
    folder("a/empty", mtime=11),
    file("a/empty/x", b"x", mtime=12),
    file("m", b"now a file", mtime=13),
)
UNSORTED = archive(
    folder("."),
    folder("a"),
    file("a/new", b"new"),
    file("a/.wh..wh..opq", mode=0),
    folder("b"),
    file(".wh.b", mode=0),
    link("m", "/a", mtime=1),
)
CASES = {"one": [OWN], "two": [OWN, TOP], "three": [OWN, TOP, UNSORTED]}


def as_judged(tree: Snapshot) -> Snapshot:
    """Return a tree as a judge of one user can make it."""
    return tree if IS_ROOT else without_owners(tree)


@needs("umoci")
@pytest.mark.parametrize("layers", CASES.values(), ids=CASES)
def test_L70_umoci_makes_the_same_tree(tmp_path: Path, layers: Sequence[bytes]) -> None:
    ours = view_of(tmp_path, layers)

    assert as_judged(umoci_tree(tmp_path, layers)) == ours


@needs("podman", "root")
@pytest.mark.parametrize("driver", ["vfs", "overlay"])
@pytest.mark.parametrize("layers", [[OWN], [OWN, TOP]], ids=["one", "two"])
def test_L70_podman_makes_the_same_tree(
    tmp_path: Path, layers: Sequence[bytes], driver: str
) -> None:
    ours = view_of(tmp_path, layers)

    theirs = podman_tree(layers, driver=driver)
    # podman 4.3 does not apply what a layer says about the root folder
    assert without_root(theirs) == without_root(ours)


def without_root(tree: Snapshot) -> Snapshot:
    return {name: seen for name, seen in tree.items() if name != b"."}


def by_gnu_tar(content: bytes, target: Path) -> None:
    options = ["--same-permissions", "--xattrs", "--xattrs-include=*", "--delay-directory-restore"]
    subprocess.run(["tar", "-x", *options, "-C", target], input=content, check=True)


def by_tarfile(content: bytes, target: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(content)) as opened:
        # it gives the mode of a hard link to a symbolic link to the target of the latter
        opened.extractall(target, [member for member in opened if member.name != "m"])
        os.link(target / "l", target / "m", follow_symlinks=False)


def what_tarfile_keeps(tree: Snapshot) -> Snapshot:
    """Drop attributes, and the times of links and of the folder that the test has changed."""
    return {
        name: replace(
            seen, xattrs=(), mtime=0 if seen.kind == S_IFLNK or name == b"." else seen.mtime
        )
        for name, seen in tree.items()
    }


def everything(tree: Snapshot) -> Snapshot:
    return tree


@pytest.mark.parametrize(
    ("unpack", "kept"),
    [(by_gnu_tar, everything), (by_tarfile, what_tarfile_keeps)],
    ids=["GNU tar", "tarfile"],
)
def test_L70_oracle_makes_the_same_tree(
    tmp_path: Path,
    unpack: Callable[[bytes, Path], None],
    kept: Callable[[Snapshot], Snapshot],
) -> None:
    ours = view_of(tmp_path, [OWN])
    (tmp_path / "other").mkdir()

    unpack(OWN, tmp_path / "other")

    assert kept(as_judged(snapshot(tmp_path / "other"))) == kept(ours)


@pytest.mark.parametrize("layers", [[OWN], [OWN, TOP]], ids=["base", "top"])
def test_L70_unpacked_layer_packs_to_same_bytes(tmp_path: Path, layers: list[bytes]) -> None:
    if not IS_ROOT:
        layers = [
            each.replace(b"0000007\x000000010\x00", b"0000000\x000000000\x00") for each in layers
        ]
        layers = [with_checksums(each) for each in layers]

    def job() -> bytes:
        layer_fd, *below = unpack_all(tmp_path, layers)
        out = io.BytesIO()
        base_fd = mounts.overlay_view(below) if below else -1
        pack(Sides(upper_fd=layer_fd, base_fd=base_fd), out)
        return out.getvalue()

    assert in_user_namespace(job) == layers[-1]


def change_much() -> None:
    os.unlink("l")
    shutil.rmtree("a")
    os.makedirs("a/deep/er")
    Path("a/deep/er/f").write_bytes(bytes(range(256)) * 1200)
    os.chmod("a/deep/er/f", 0o4711)
    os.setxattr("a/deep/er/f", "user.x", b"\0=")
    os.setxattr("a/deep/er/f", "security.capability", CAPABILITY)
    os.link("a/deep/er/f", "g")
    os.symlink("/etc", "a/link")
    os.mkfifo("pipe")
    os.chmod(".", 0o750)
    for folder_name, folders, names in os.walk(".", topdown=False):
        for name in (*names, *folders, "."):
            os.utime(f"{folder_name}/{name}", (1000, 1000), follow_symlinks=False)


def test_L70_packed_changes_give_the_same_tree(tmp_path: Path) -> None:
    def job() -> tuple[Snapshot, Snapshot, dict[str, str]]:
        place = mount_upper(tmp_path)
        layer_fds = unpack_all(tmp_path, [OWN])
        mount_overlay(layer_fds, place / "up", place / "work", place / "merged")
        os.chdir(place / "merged")
        change_much()
        os.chdir("/")
        outcome = look(place / "up", layer_fds)
        (tmp_path / "second").mkdir()
        top_fds = unpack_all(tmp_path / "second", [OWN, outcome.archive])
        view = snapshot(mounts.overlay_view(top_fds))
        return snapshot(place / "merged"), view, look(place / "up", top_fds).kinds

    merged, view, differences = in_user_namespace(job)

    assert as_mounted(view) == as_mounted(merged)
    assert differences == {}


def test_L70_every_user_gives_the_same_diff_id(tmp_path: Path) -> None:
    base = archive(folder("."), folder("a"), file("a/f", b"1"), link("l", "a"))

    outcome = outcome_of(tmp_path, [base], change_much)

    assert (
        outcome.packed.diff_id
        == "sha256:edebbfdfbfe82c7dfd7d63c0ef08371f6073229648bd63d5f2595184c79faf79"
    )
