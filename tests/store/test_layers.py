"""Unpack layers for real, as root of a user namespace, and look at what the disk then holds."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
from pathlib import Path

import pytest
from archives import Item, archive, file, folder, header, link, node, together
from features import needs
from namespaced import in_user_namespace

from pytest_rootfs.errors import ArchiveRejected, HostUnsupported, RootfsError
from pytest_rootfs.store.layers import UnpackResult, unpack
from pytest_rootfs.store.trees import remove_tree

pytestmark = needs("userns")

CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
ROOT = folder(".", mtime=7)


def unpacked(target: Path, content: bytes, *, squash_ids: bool = os.getuid() != 0) -> UnpackResult:
    target.mkdir(exist_ok=True)

    def job() -> UnpackResult:
        target_fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
        return unpack(io.BytesIO(content), target_fd, squash_ids=squash_ids)

    return in_user_namespace(job)


def is_whiteout(path: Path) -> bool:
    found = path.lstat()
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def is_opaque(path: Path) -> bool:
    return "user.overlay.opaque" in os.listxattr(path)


def test_files_get_content_mode_and_time(tmp_path: Path) -> None:
    content = archive(
        folder(".", 0o711, mtime=3),
        folder("d", 0o1777, mtime=5),
        file("d/f", b"hello", 0o4755, mtime=-1),
        link("d/l", "/nowhere"),
        node("d/p", "fifo"),
    )

    result = unpacked(tmp_path / "fs", content)

    root, d = tmp_path / "fs", tmp_path / "fs" / "d"
    assert result.entries == 5
    assert result.has_root
    assert result.degraded == ()
    assert (stat.S_IMODE(root.stat().st_mode), root.stat().st_mtime) == (0o711, 3)
    assert (stat.S_IMODE(d.stat().st_mode), d.stat().st_mtime) == (0o1777, 5)
    assert (d / "f").read_bytes() == b"hello"
    assert (stat.S_IMODE((d / "f").stat().st_mode), (d / "f").stat().st_mtime) == (0o4755, -1)
    assert os.readlink(d / "l") == "/nowhere"
    assert (d / "l").lstat().st_mtime == 0
    assert (d / "p").is_fifo()


def test_digest_is_of_whole_archive(tmp_path: Path) -> None:
    content = archive(ROOT) + bytes(512)

    result = unpacked(tmp_path / "fs", content)

    assert result.size == 2048
    assert result.diff_id == "sha256:" + hashlib.sha256(content).hexdigest()


@needs("root")
def test_owners_are_kept(tmp_path: Path) -> None:
    content = archive(ROOT, file("f", uid=12, gid=34), folder("d", uid=5, gid=6))

    unpacked(tmp_path / "fs", content)

    found = [(tmp_path / "fs" / name).stat() for name in ("f", "d")]
    assert [(each.st_uid, each.st_gid) for each in found] == [(12, 34), (5, 6)]


def test_owners_are_squashed(tmp_path: Path) -> None:
    content = archive(ROOT, file("f", uid=12, gid=34))

    unpacked(tmp_path / "fs", content, squash_ids=True)

    assert (tmp_path / "fs" / "f").stat().st_uid == os.getuid()


def test_unmapped_owner_is_refused(tmp_path: Path) -> None:
    content = archive(ROOT, file("f", uid=70000))

    with pytest.raises(ArchiveRejected, match=r"`f`.*owner 70000:0 is not among"):
        unpacked(tmp_path / "fs", content, squash_ids=False)


def test_attributes_are_kept_escaped_or_noted(tmp_path: Path) -> None:
    xattrs = {
        b"user.plain": b"\0=\n\xff",
        b"user.overlay.opaque": b"y",
        b"security.capability": CAPABILITY,
        b"security.selinux": b"label",
        b"trusted.x": b"1",
    }
    content = archive(ROOT, file("f", xattrs=xattrs), file("g", xattrs={b"trusted.x": b"1"}))

    result = unpacked(tmp_path / "fs", content)

    f = tmp_path / "fs" / "f"
    assert os.getxattr(f, "user.plain") == b"\0=\n\xff"
    assert os.getxattr(f, "user.overlay.overlay.opaque") == b"y"
    assert "user.overlay.opaque" not in os.listxattr(f)
    assert "security.capability" in os.listxattr(f)
    assert [text.partition(" not kept")[0] for text in result.degraded] == [
        "`f`: attribute `security.selinux`",
        "`f`: attribute `trusted.x`",
    ]


def test_setuid_survives_capability_and_owner(tmp_path: Path) -> None:
    xattrs = {b"security.capability": CAPABILITY}
    content = archive(ROOT, file("f", b"x", 0o6755, xattrs=xattrs))

    unpacked(tmp_path / "fs", content)

    assert stat.S_IMODE((tmp_path / "fs" / "f").stat().st_mode) == 0o6755


def test_hard_link_is_same_inode(tmp_path: Path) -> None:
    content = archive(
        ROOT, folder("a"), folder("b"), file("a/f", b"x"), link("b/g", "a/f", "hardlink")
    )

    unpacked(tmp_path / "fs", content)

    assert (tmp_path / "fs/a/f").samefile(tmp_path / "fs/b/g")


def test_hard_link_to_symlink_is_kept(tmp_path: Path) -> None:
    content = archive(ROOT, link("l", "nowhere"), link("m", "l", "hardlink"))

    unpacked(tmp_path / "fs", content)

    assert os.readlink(tmp_path / "fs/m") == "nowhere"
    assert (tmp_path / "fs/m").lstat().st_nlink == 2


def test_zeros_become_holes(tmp_path: Path) -> None:
    content = archive(ROOT, file("f", b"x" + bytes((1 << 20) - 1) + bytes(1 << 20)))

    unpacked(tmp_path / "fs", content)

    found = (tmp_path / "fs/f").stat()
    assert found.st_size == 2 << 20
    assert found.st_blocks * 512 <= 1 << 19


def test_device_is_skipped_and_noted(tmp_path: Path) -> None:
    content = archive(ROOT, node("null", "char", (1, 3)), link("same", "null", "hardlink"))

    result = unpacked(tmp_path / "fs", content)

    assert list((tmp_path / "fs").iterdir()) == []
    assert result.degraded == (
        "`null` is a device node, which cannot be made here",
        "`same` is a link to a device node that cannot be made here",
    )


def test_remarks_have_an_end(tmp_path: Path) -> None:
    content = archive(ROOT, *(node(f"null{number:03}", "char", (1, 3)) for number in range(60)))

    result = unpacked(tmp_path / "fs", content)

    assert len(result.degraded) == 51
    assert result.degraded[-1] == "and 10 more"


def test_whiteout_becomes_device(tmp_path: Path) -> None:
    content = archive(ROOT, folder("d"), file("d/.wh.gone", mode=0))

    unpacked(tmp_path / "fs", content)

    assert is_whiteout(tmp_path / "fs/d/gone")
    assert os.listdir(tmp_path / "fs/d") == ["gone"]


def test_whiteout_spares_own_sibling(tmp_path: Path) -> None:
    content = archive(ROOT, file("f", b"new"), file(".wh.f", mode=0))

    unpacked(tmp_path / "fs", content)

    assert (tmp_path / "fs/f").read_bytes() == b"new"


def test_whiteout_before_file_is_replaced(tmp_path: Path) -> None:
    content = archive(ROOT, file(".wh.f", mode=0), file("f", b"new"))

    unpacked(tmp_path / "fs", content)

    assert (tmp_path / "fs/f").read_bytes() == b"new"


@pytest.mark.parametrize("is_first", [True, False])
def test_whiteout_of_own_folder_makes_it_opaque(tmp_path: Path, *, is_first: bool) -> None:
    whiteout, new = file(".wh.d", mode=0), folder("d")
    content = archive(ROOT, *((whiteout, new) if is_first else (new, whiteout)), file("d/x"))

    unpacked(tmp_path / "fs", content)

    assert is_opaque(tmp_path / "fs/d")
    assert os.listdir(tmp_path / "fs/d") == ["x"]


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_opaque_marker_may_stand_anywhere(tmp_path: Path, place: int) -> None:
    inside: list[Item] = [file("d/a"), folder("d/sub"), file("d/sub/.wh.ghost", mode=0)]
    inside.insert(place, file("d/.wh..wh..opq", mode=0))
    content = archive(ROOT, folder("d"), *inside)

    unpacked(tmp_path / "fs", content)

    assert is_opaque(tmp_path / "fs/d")
    assert sorted(os.listdir(tmp_path / "fs/d")) == ["a", "sub"]
    assert os.listdir(tmp_path / "fs/d/sub") == []


@pytest.mark.parametrize(
    ("items", "rule"),
    [
        ([header(b"a/b")], "`a/b` is refused: its parent folder `a` has no entry before it"),
        ([header(b"l", kind=b"2", link=b"/etc"), header(b"l/x")], "its parent `l` is not a folder"),
        ([header(b"f"), header(b"f/x")], "its parent `f` is not a folder"),
        ([header(b"f"), header(b"./f")], "`f` is refused: it occurs twice"),
        ([header(b"l", kind=b"2", link=b"/x"), header(b"l")], "it occurs twice"),
        ([header(b"l", kind=b"2", link=b"/x"), header(b"l", kind=b"5")], "it occurs twice"),
        ([header(b"d/", kind=b"5"), header(b"d/", kind=b"5")], "it occurs twice"),
        ([header(b".", kind=b"5"), header(b"./", kind=b"5")], "it occurs twice"),
        ([header(b"h", kind=b"1", link=b"/etc/shadow")], "no earlier entry"),
        ([header(b"h", kind=b"1", link=b"later"), header(b"later")], "no earlier entry"),
        ([header(b"d/", kind=b"5"), header(b"h", kind=b"1", link=b"d")], "hard link to `d`"),
        ([header(b".wh.f"), header(b"h", kind=b"1", link=b"f")], "hard link to `f`"),
        (
            [header(b"l", kind=b"2", link=b"/etc"), header(b"h", kind=b"1", link=b"l/passwd")],
            "no earlier entry",
        ),
        ([header(b".wh.")], "hides no proper name"),
        ([header(b".wh..")], "hides no proper name"),
        ([header(b".wh...")], "hides no proper name"),
        ([header(b".wh..wh.x")], "hides no proper name"),
        ([header(b".wh.x"), header(b".wh.x")], "it occurs twice"),
        ([header(b".wh.x", kind=b"5")], "a whiteout must be an empty regular file"),
        ([header(b".wh.x", kind=b"2", link=b"y")], "a whiteout must be an empty regular file"),
        ([header(b".wh.f"), header(b"f/x")], "its parent `f` is not a folder"),
        ([header(b"zero", kind=b"3")], "device 0:0"),
        ([header(b"g", kind=b"x")], ""),
    ],
)
def test_layer_is_refused(tmp_path: Path, items: list[bytes], rule: str) -> None:
    content = together(items)

    with pytest.raises(ArchiveRejected) as refused:
        unpacked(tmp_path / "fs", content)

    assert rule in refused.value.what


def test_refused_layer_touches_nothing_outside(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    content = together([header(b"l", kind=b"2", link=bytes(outside)), header(b"l/x")])

    with pytest.raises(ArchiveRejected):
        unpacked(tmp_path / "fs", content)

    assert list(outside.iterdir()) == []


@pytest.mark.slow
def test_deep_tree_needs_few_descriptors(tmp_path: Path) -> None:
    names = ["/".join(["d"] * depth) for depth in range(1, 1500)]
    content = archive(ROOT, *(folder(name, mtime=9) for name in names))

    result = unpacked(tmp_path / "fs", content)

    assert result.entries == 1500
    assert (tmp_path / "fs" / names[100]).stat().st_mtime == 9
    remove_tree(tmp_path / "fs")  # pytest's own cleaning gives up on it


def test_full_disk_is_one_clear_sentence(tmp_path: Path) -> None:
    from pytest_rootfs.kernel import syscalls

    content = archive(ROOT, file("f", os.urandom(1 << 20)))
    (tmp_path / "fs").mkdir()

    def job() -> object:
        syscalls.mount("small", bytes(tmp_path / "fs"), "tmpfs", 0, "size=256k")
        target_fd = os.open(tmp_path / "fs", os.O_RDONLY | os.O_DIRECTORY)
        return unpack(io.BytesIO(content), target_fd, squash_ids=True)

    with pytest.raises(RootfsError, match=os.strerror(errno.ENOSPC)) as refused:
        in_user_namespace(job)

    assert not isinstance(refused.value, HostUnsupported)  # which would skip the test
