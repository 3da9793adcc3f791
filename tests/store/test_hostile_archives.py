"""H01 to H36: hostile and broken archives. Each is refused with a rule, or harmless in its root."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from archives import archive, extended, file, folder, header, link, node, padded, record, together
from features import needs
from namespaced import in_user_namespace
from overlays import unpacked
from snapshots import snapshot

from pytest_rootfs.errors import ArchiveRejected, HostUnsupported, RootfsError
from pytest_rootfs.kernel import syscalls
from pytest_rootfs.store.layers import UnpackLimits, unpack
from pytest_rootfs.store.store import Store

pytestmark = needs("userns")

LONG = b"././@LongLink"
ONE = b"00000000001\0"
GOOD = archive(folder("d"), file("d/f", b"x" * 700))


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """Give a folder that no archive may touch, and look that none has."""
    path = tmp_path / "outside"
    path.mkdir()
    (path / "passwd").write_bytes(b"secret")
    before = snapshot(path)
    yield path
    assert snapshot(path) == before


def dir_(name: bytes) -> bytes:
    return header(name, kind=b"5", mode=b"0000755\0")


def symlink(name: bytes, target: bytes) -> bytes:
    return header(name, kind=b"2", link=target)


def hardlink(name: bytes, target: bytes) -> bytes:
    return header(name, kind=b"1", link=target)


def pax(key: bytes, value: bytes) -> bytes:
    return extended(record(key, value))


REFUSED: dict[str, tuple[list[bytes], str]] = {
    "H01-up": ([header(b"../x")], "`../x` is refused: the name contains `..`"),
    "H01-down-up": ([header(b"a/../../x")], "contains `..`"),
    "H01-pax": ([pax(b"path", b"../x"), header()], "contains `..`"),
    "H05-loop": ([symlink(b"l", b"m"), symlink(b"m", b"l"), header(b"l/x")], "too many levels"),
    "H07-link": ([symlink(b".", b"/")], "`.` is refused: the root cannot be a symlink"),
    "H07-file": ([header(b"/.")], "the root cannot be a file"),
    "H08-up": ([hardlink(b"h", b"../../etc/shadow")], "contains `..`"),
    "H08-absolute": ([hardlink(b"h", b"/etc/shadow")], "`etc/shadow`, no earlier entry"),
    "H10-folder": ([dir_(b"d/"), hardlink(b"h", b"d")], "hard link to `d`, a folder"),
    "H10-itself": ([header(b"f"), hardlink(b"f", b"./f")], "hard link to `f`"),
    "H10-root": ([hardlink(b"f", b".")], "hard link to `.`"),
    "H10-itself-by-link": (
        [dir_(b"d"), header(b"d/f"), symlink(b"l", b"d"), hardlink(b"d/f", b"l/f")],
        "hard link to itself",
    ),
    "H10-parent": ([dir_(b"d"), header(b"d/f"), hardlink(b"d", b"d/f")], "which it replaces"),
    "H14-parent": ([header(b".wh...")], "hides no proper name"),
    "H14-self": ([header(b".wh..")], "hides no proper name"),
    "H14-below": ([dir_(b"etc"), header(b"etc/.wh...")], "hides no proper name"),
    "H15-empty": ([header(b".wh.")], "hides no proper name"),
    "H15-reserved": ([header(b".wh..wh.x")], "hides no proper name"),
    "H17-folder": ([dir_(b".wh.x")], "must be an empty regular file"),
    "H17-link": ([symlink(b".wh.x", b"y")], "must be an empty regular file"),
    "H17-device": ([header(b".wh.x", kind=b"3")], "must be an empty regular file"),
    "H17-data": ([header(b".wh.x", size=ONE), padded(b"x")], "must be an empty regular file"),
    "H18-fake-whiteout": ([header(b"zero", kind=b"3")], "device 0:0"),
    "H24-deep": ([pax(b"path", b"x/" * 2048), header()], "longer than 4095"),
    "H24-deep-by-links": (
        [pax(b"linkpath", b"d/" * 2040), symlink(b"l", b"x"), header(b"l/" + b"e" * 90 + b"/x")],
        "leads to more than 4095",
    ),
    "H25-long-name": ([header(LONG, kind=b"L", size=b"10000000000\0")], "header of 1073741824"),
    "H25-pax": ([header(b"x", kind=b"x", size=b"10000000000\0")], "header of 1073741824"),
    "H25-none": ([header(b"x", kind=b"x")], "header of 0"),
    "H26-size": ([header(size=b"\xff" * 12)], "size -1 is out of range"),
    "H26-huge-size": ([header(size=b"\x80" + b"\xff" * 11)], "out of range"),
    "H26-pax-size": ([pax(b"size", b"-1"), header()], "size -1 is out of range"),
    "H26-fraction": ([pax(b"size", b"1.5"), header()], "not a whole number"),
    "H26-text-size": ([header(size=b"0000000000x\0")], "size is not a number"),
    "H26-uid": ([header(uid=b"\xff" * 8)], "uid -1 is out of range"),
    "H26-huge-uid": ([header(uid=b"\x80" + b"\xff" * 7)], "out of range"),
    "H26-no-uid": ([pax(b"uid", b"4294967295"), header()], "out of range"),
    "H26-mtime": ([pax(b"mtime", b"9" * 20), header()], "out of range"),
    "H26-text-mtime": ([pax(b"mtime", b"now"), header()], "not a number"),
    "H26-device": ([header(kind=b"3", devices=b"0010000\x000000000\0")], "no device 4096"),
    "H27-too-long": ([extended(b"99 path=evil\n"), header()], "lies about its length"),
    "H27-too-short": ([extended(b"11 path=evil\n"), header()], "lies about its length"),
    "H27-no-newline": ([extended(b"12 path=evil\n"), header()], "lies about its length"),
    "H27-no-length": ([extended(b"path=evil\n"), header()], "no length"),
    "H27-negative": ([extended(b"-1 path=evil\n"), header()], "no length"),
    "H27-zero": ([extended(b"0 path=evil\n"), header()], "no length"),
    "H27-twice": ([extended(record(b"path", b"a") * 2), header()], "`path` twice"),
    "H27-two-headers": ([pax(b"path", b"a") * 2, header()], "two headers set `path`"),
    "H28-path": ([extended(record(b"path", b"evil"), b"g"), header()], "global header sets `path`"),
    "H28-size": ([extended(record(b"size", b"9"), b"g"), header()], "global header sets `size`"),
    "H29-checksum": ([header()[:148] + b"000000\0 " + header()[156:]], "wrong checksum"),
    "H29-garbage": ([b"garbage".ljust(512)], "checksum"),
    "H29-second": ([header(b"a"), b"garbage".ljust(512)], "entry 2"),
    "H29-padding": ([header(size=ONE), b"x" + b"y" * 511], "padding is not zero"),
    "H30-header-only": ([pax(b"path", b"a")], "ends after an extended header"),
    "H30-middle": ([header(b"a"), bytes(512), header(b"b")], "single zero block"),
    "H34-empty": ([header(b"")], "name is empty"),
    "H34-NUL": ([pax(b"path", b"a\0b"), header()], "NUL"),
    "H34-GNU-NUL": (
        [header(LONG, kind=b"L", size=b"00000000004\0"), padded(b"a\0b\0"), header()],
        "NUL",
    ),
    "H34-long": ([pax(b"path", b"x" * 256), header()], "longer than 255"),
    "H34-target": ([symlink(b"l", b"")], "target of the symbolic link is empty"),
    "H36-type": ([header(kind=b"Z")], "type b'Z' is not supported"),
    "H36-folder-data": ([header(kind=b"5", size=ONE), padded(b"x")], "a dir cannot have data"),
    "H36-link-data": ([header(kind=b"1", link=b"x", size=ONE), padded(b"x")], "cannot have data"),
}


@pytest.mark.parametrize(("parts", "rule"), REFUSED.values(), ids=REFUSED)
def test_archive_is_refused(deep_path: Path, outside: Path, parts: list[bytes], rule: str) -> None:
    with pytest.raises(ArchiveRejected) as refused:
        unpacked(deep_path, together(parts))

    assert rule in refused.value.what
    assert "(entry " in refused.value.what


INSIDE: dict[str, tuple[list[bytes], dict[bytes, int]]] = {
    "H02-absolute": ([header(b"/etc/x")], {b"etc": stat.S_IFDIR, b"etc/x": stat.S_IFREG}),
    "H03-absolute-link": (
        [symlink(b"l", b"/etc"), header(b"l/passwd")],
        {b"l": stat.S_IFLNK, b"etc": stat.S_IFDIR, b"etc/passwd": stat.S_IFREG},
    ),
    "H03-deep-absolute-link": (
        [dir_(b"d"), symlink(b"d/l", b"/etc"), header(b"d/l/passwd")],
        {b"d/l": stat.S_IFLNK, b"etc/passwd": stat.S_IFREG},
    ),
    "H04-climbing-link": (
        [dir_(b"d"), symlink(b"d/l", b"../../../../etc"), header(b"d/l/x")],
        {b"d/l": stat.S_IFLNK, b"etc/x": stat.S_IFREG},
    ),
    "H06-magic-link": (
        [symlink(b"l", b"/proc/self/root"), header(b"l/etc/x")],
        {b"proc/self/root/etc/x": stat.S_IFREG},
    ),
    "H06-magic-fd": (
        [symlink(b"l", b"/proc/self/fd/3"), header(b"l/x")],
        {b"proc/self/fd/3/x": stat.S_IFREG},
    ),
    "H11-file-over-link": (
        [symlink(b"l", b"/passwd"), header(b"passwd"), header(b"l")],
        {b"l": stat.S_IFREG, b"passwd": stat.S_IFREG},
    ),
    "H12-folder-over-link": (
        [dir_(b"d"), symlink(b"l", b"d"), dir_(b"l"), header(b"l/x")],
        {b"l": stat.S_IFDIR, b"l/x": stat.S_IFREG, b"d": stat.S_IFDIR},
    ),
    "H16-whiteout-by-link": ([symlink(b"l", b"/etc"), header(b"l/.wh.x")], {b"etc": stat.S_IFDIR}),
    "H33-spelling": (
        [header(b"./a//b"), header(b"a/./b"), header(b"/a/b")],
        {b"a/b": stat.S_IFREG},
    ),
    "H35-case": (
        [header(b"E"), header(b"e")],
        {b"E": stat.S_IFREG, b"e": stat.S_IFREG},
    ),
}


@pytest.mark.parametrize(("parts", "expected"), INSIDE.values(), ids=INSIDE)
def test_archive_stays_in_its_root(
    tmp_path: Path, outside: Path, parts: list[bytes], expected: dict[bytes, int]
) -> None:
    _, tree = unpacked(tmp_path, together(parts))

    assert {name: tree[name].kind for name in expected} == expected


def test_H03_link_to_real_folder_outside_is_not_followed(tmp_path: Path, outside: Path) -> None:
    top = bytes(outside)

    _, tree = unpacked(tmp_path, together([symlink(b"l", top), header(b"l/x")]))

    assert tree[top[1:] + b"/x"].kind == stat.S_IFREG
    assert tree[b"l"].content == top  # foreign targets are data, and stay as they are


def test_H09_hard_link_by_linked_folder_is_resolved_inside(tmp_path: Path, outside: Path) -> None:
    parts = [dir_(b"etc"), symlink(b"etc/f", b"/x"), symlink(b"l", b"/etc"), hardlink(b"h", b"l/f")]

    _, tree = unpacked(tmp_path, together(parts))

    assert (tree[b"h"].content, tree[b"h"].first) == (b"/x", b"etc/f")


@pytest.mark.parametrize("replaced", [b"d", b"d/sub"])
def test_H13_parent_replaced_from_outside_is_not_left(
    tmp_path: Path, outside: Path, replaced: bytes
) -> None:
    class Swapping(io.BytesIO):
        """An archive whose reader finds a folder moved away, a link in its place."""

        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() == 512 * 3:
                place = bytes(tmp_path / "fs") + b"/" + replaced
                os.rename(place, bytes(tmp_path / "moved"))
                os.symlink(bytes(outside), place)
            return super().read(size)

    content = together([dir_(b"d"), dir_(b"d/sub"), header(b"d/sub/f"), header(b"d/sub/passwd")])
    (tmp_path / "fs").mkdir()

    def job() -> None:
        target_fd = os.open(tmp_path / "fs", os.O_RDONLY | os.O_DIRECTORY)
        unpack(Swapping(content), target_fd, squash_ids=True)

    with suppress(ArchiveRejected, OSError):  # or it goes on in the folder that was moved
        in_user_namespace(job)

    assert (tmp_path / "fs").joinpath(os.fsdecode(replaced)).is_symlink()


def test_H18_device_is_skipped_and_noted(tmp_path: Path) -> None:
    content = archive(folder("."), node("null", "char", (1, 3)), link("same", "null", "hardlink"))

    result, tree = unpacked(tmp_path, content)

    assert set(tree) == {b"."}
    assert result.degraded == (
        "`null` is a device node, which cannot be made here",
        "`same` is a link to a device node that cannot be made here",
    )


def test_H19_setuid_files_lie_where_nobody_else_comes(store: Store) -> None:
    with store.stage_layer("test", None) as staged:
        assert os.fstat(staged.fd).st_mode & 0o777 == 0o755

    assert stat.S_IMODE(store.root.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", [b"opaque", b"whiteout", b"redirect", b"metacopy"])
def test_H20_attribute_of_overlay_is_escaped(tmp_path: Path, name: bytes) -> None:
    xattrs = {b"user.overlay." + name: b"y", b"trusted.overlay." + name: b"y"}

    unpacked(tmp_path, archive(folder("."), folder("d", xattrs=xattrs)))

    assert os.listxattr(tmp_path / "fs/d") == ["user.overlay.overlay." + name.decode()]


def test_H21_attributes_of_machine_are_dropped(tmp_path: Path) -> None:
    xattrs = {b"trusted.x": b"1", b"security.x": b"1", b"system.x": b"1", b"user.x": b"1"}

    result, tree = unpacked(tmp_path, archive(folder("."), file("f", xattrs=xattrs)))

    assert tree[b"f"].xattrs == ((b"user.x", b"1"),)
    assert len(result.degraded) == 3


def test_H22_bytes_have_a_limit_holes_included(tmp_path: Path, outside: Path) -> None:
    huge = pax(b"size", b"%d" % (1 << 39))

    with pytest.raises(ArchiveRejected, match=r"unpacks to more than 274877906944 bytes.*entry 1"):
        unpacked(tmp_path, together([huge, header(b"f")]))


def test_H24_entries_have_a_limit(tmp_path: Path, outside: Path) -> None:
    content = archive(*(file(f"{number}") for number in range(4)))

    with pytest.raises(ArchiveRejected, match=r"more than 3 entries.*entry 4"):
        unpacked(tmp_path, content, limits=UnpackLimits(entries=3))


def test_H24_records_have_a_limit(tmp_path: Path, outside: Path) -> None:
    many = b"".join(record(b"k%d" % number, b"v") for number in range(100_000))

    with pytest.raises(ArchiveRejected, match="extended header of"):
        unpacked(tmp_path, together([extended(many), header(b"f")]))


@pytest.mark.parametrize("length", [1, 511, 512, 700, 1600, 2000, len(GOOD) - 1100])
def test_H30_cut_archive_is_refused(tmp_path: Path, outside: Path, length: int) -> None:
    content = GOOD[:length] if length != 512 else GOOD[:1024]

    with pytest.raises(ArchiveRejected, match="cut off"):
        unpacked(tmp_path, content)


@pytest.mark.parametrize("missing", [512, 1024])
def test_H30_missing_end_is_noted(tmp_path: Path, missing: int) -> None:
    result, tree = unpacked(tmp_path, GOOD[:-missing])

    assert tree[b"d/f"].content == b"x" * 700
    assert result.degraded == ("the archive has no end marker",)


def test_H30_empty_file_is_no_archive(tmp_path: Path) -> None:
    with pytest.raises(ArchiveRejected, match="cut off"):
        unpacked(tmp_path, b"")


def test_H31_data_after_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveRejected, match="after the end"):
        unpacked(tmp_path, GOOD + bytes(512) + b"x")


def test_H32_later_entry_counts(tmp_path: Path, outside: Path) -> None:
    parts = [header(b"f", size=ONE), padded(b"1"), header(b"./f", size=ONE), padded(b"2")]

    result, tree = unpacked(tmp_path, together(parts))

    assert tree[b"f"].content == b"2"
    assert result.degraded == ("`f` occurs twice; the later entry counts",)


def test_H32_attributes_of_earlier_folder_are_dropped(tmp_path: Path) -> None:
    parts = [pax(b"SCHILY.xattr.user.x", b"1"), dir_(b"d"), dir_(b"d")]

    _, tree = unpacked(tmp_path, together(parts))

    assert tree[b"d"].xattrs == ()


def test_refused_layer_is_never_published(store: Store, outside: Path) -> None:
    content = together([header(b"f"), symlink(b"l", bytes(outside)), header(b"../x")])

    def job(target_fd: int) -> None:
        unpack(io.BytesIO(content), target_fd, squash_ids=True)

    with pytest.raises(ArchiveRejected), store.stage_layer("test", None) as staged:
        in_user_namespace(lambda: job(staged.fd))

    assert os.listdir(store.root / "layers" / "test") == []
    assert os.listdir(store.root / "tmp") == []


def test_full_disk_is_one_clear_sentence(tmp_path: Path) -> None:
    content = archive(folder("."), file("f", os.urandom(1 << 20)))
    (tmp_path / "fs").mkdir()

    def job() -> object:
        syscalls.mount("small", bytes(tmp_path / "fs"), "tmpfs", 0, "size=256k")
        target_fd = os.open(tmp_path / "fs", os.O_RDONLY | os.O_DIRECTORY)
        return unpack(io.BytesIO(content), target_fd, squash_ids=True)

    with pytest.raises(RootfsError, match=os.strerror(errno.ENOSPC)) as refused:
        in_user_namespace(job)

    assert not isinstance(refused.value, HostUnsupported)  # which would skip the test
