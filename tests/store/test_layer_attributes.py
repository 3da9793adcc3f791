"""L30 to L49: modes, owners, times, attributes, names and sizes, into a layer and out of it."""

from __future__ import annotations

import io
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from archives import archive, entries, file, folder, link, names
from features import needs
from overlays import Outcome, outcome_of, unpacked

from pytest_rootfs.errors import ArchiveRejected
from pytest_rootfs.store.entries import Entry
from pytest_rootfs.store.packing import pack
from pytest_rootfs.store.tar_reader import read_entries
from pytest_rootfs.store.tar_writer import TarWriter
from pytest_rootfs.store.uppers import Sides

pytestmark = needs("userns")

CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
ROOT = folder(".", mtime=7)


def packed(tmp_path: Path, mutation: Callable[[], object]) -> Outcome:
    def run() -> None:
        mutation()

    return outcome_of(tmp_path, [[ROOT, file("f", b"f", mtime=1)]], run)


def set_xattrs(path: str, attributes: dict[str, bytes]) -> Callable[[], None]:
    def mutation() -> None:
        for name, value in attributes.items():
            os.setxattr(path, name, value)

    return mutation


@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o6711, 0o1644])
def test_L30_mode_survives_owner_and_capability(tmp_path: Path, mode: int) -> None:
    xattrs = {b"security.capability": CAPABILITY}
    content = archive(ROOT, file("f", b"x", mode, xattrs=xattrs), folder("d", 0o1777))

    _, tree = unpacked(tmp_path, content)

    assert (tree[b"f"].mode, tree[b"d"].mode) == (mode, 0o1777)
    assert dict(tree[b"f"].xattrs) == xattrs


def test_L30_mode_is_packed(tmp_path: Path) -> None:
    outcome = packed(tmp_path, lambda: os.chmod("f", 0o6755))

    assert outcome.entries["f"][0].mode == 0o6755


def test_L31_capability_survives_round_trip(tmp_path: Path) -> None:
    xattrs = {b"security.capability": CAPABILITY}

    _, tree = unpacked(tmp_path, archive(ROOT, file("f", xattrs=xattrs)))

    assert dict(tree[b"f"].xattrs) == xattrs


def test_L32_capability_of_namespace_is_written_for_any(tmp_path: Path) -> None:
    outcome = packed(tmp_path, set_xattrs("f", {"security.capability": CAPABILITY}))

    assert outcome.entries["f"][0].xattrs == {b"security.capability": CAPABILITY}


def test_L33_attribute_of_any_bytes_survives(tmp_path: Path) -> None:
    value = b"\0=\n\xff"

    outcome = packed(tmp_path, set_xattrs("f", {"user.raw": value}))
    _, tree = unpacked(tmp_path, outcome.archive)

    assert b"hdrcharset" not in outcome.archive
    assert dict(tree[b"f"].xattrs) == {b"user.raw": value}


def test_L34_empty_attribute_is_dropped_and_told(tmp_path: Path) -> None:
    outcome = packed(tmp_path, set_xattrs("f", {"user.empty": b"", "user.a=b": b"1"}))

    assert outcome.entries["f"][0].xattrs == {}
    assert sorted(outcome.packed.skipped) == [
        "attribute `user.a=b`, first on `f`",
        "attribute `user.empty`, first on `f`",
    ]


def test_L35_attributes_of_overlay_are_never_packed(tmp_path: Path) -> None:
    def mutation() -> None:
        os.mkdir("brand")
        os.rename("brand", "opaque")
        os.chmod("f", 0o600)

    outcome = packed(tmp_path, mutation)

    assert b"overlay." not in outcome.archive


def test_L35_attribute_of_nested_overlay_is_escaped(tmp_path: Path) -> None:
    xattrs = {b"user.overlay.opaque": b"y", b"user.overlay.overlay.x": b"1"}
    content = archive(ROOT, folder("d", xattrs=xattrs))

    unpacked(tmp_path, content)

    stored = {
        name: os.getxattr(tmp_path / "fs/d", name) for name in os.listxattr(tmp_path / "fs/d")
    }
    assert stored == {"user.overlay.overlay.opaque": b"y", "user.overlay.overlay.overlay.x": b"1"}


def test_L35_attribute_of_nested_overlay_is_unescaped(tmp_path: Path) -> None:
    outcome = packed(tmp_path, set_xattrs("f", {"user.overlay.x": b"1"}))

    assert outcome.entries["f"][0].xattrs == {b"user.overlay.x": b"1"}


@pytest.mark.parametrize(
    "name", ["security.selinux", "security.ima", "security.evm", "system.nfs4_acl", "trusted.x"]
)
def test_L36_attribute_of_machine_is_noted(tmp_path: Path, name: str) -> None:
    content = archive(ROOT, file("f", xattrs={name.encode(): b"1"}), file("g"))

    result, tree = unpacked(tmp_path, content)

    assert tree[b"f"].xattrs == ()
    assert result.degraded == (f"`f`: attribute `{name}` not kept: belongs to one machine",)


@needs("root")
def test_L36_label_is_never_packed(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    os.setxattr(tmp_path / "f", "trusted.label", b"1")
    out = io.BytesIO()
    upper_fd = os.open(tmp_path, os.O_RDONLY)

    result = pack(Sides(upper_fd=upper_fd), out)

    os.close(upper_fd)
    assert entries(out.getvalue())["f"][0].xattrs == {}
    assert result.skipped == ("attribute `trusted.label`, first on `f`",)


def test_L37_access_list_is_dropped_and_told(tmp_path: Path) -> None:
    # acl(5), linux/posix_acl_xattr.h: version 2; then tag, permissions and id of each line.
    rows = [
        (1, 6, 0xFFFFFFFF),
        (2, 4, 0),
        (4, 4, 0xFFFFFFFF),
        (16, 4, 0xFFFFFFFF),
        (32, 4, 0xFFFFFFFF),
    ]
    value = (2).to_bytes(4, "little") + b"".join(
        tag.to_bytes(2, "little") + bits.to_bytes(2, "little") + who.to_bytes(4, "little")
        for tag, bits, who in rows
    )

    def mutation() -> None:
        Path("f").write_bytes(b"new")
        os.setxattr("f", "system.posix_acl_access", value)

    outcome = packed(tmp_path, mutation)

    assert outcome.entries["f"][0].xattrs == {}
    assert outcome.packed.skipped == ("attribute `system.posix_acl_access`, first on `f`",)


@needs("root")
@pytest.mark.parametrize("dev", [(1, 3), (259, 65536), (4095, 1048575)])
@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK])
def test_L38_device_is_packed(tmp_path: Path, kind: int, dev: tuple[int, int]) -> None:
    os.mknod(tmp_path / "n", kind | 0o640, os.makedev(*dev))
    out = io.BytesIO()
    upper_fd = os.open(tmp_path, os.O_RDONLY)

    pack(Sides(upper_fd=upper_fd), out)

    os.close(upper_fd)
    entry, _ = entries(out.getvalue())["n"]
    assert (entry.kind, entry.dev) == ("char" if kind == stat.S_IFCHR else "block", dev)


def test_L39_fifo_survives(tmp_path: Path) -> None:
    outcome = packed(tmp_path, lambda: os.mkfifo("p", 0o640))
    _, tree = unpacked(tmp_path, outcome.archive)

    assert (stat.S_ISFIFO(tree[b"p"].kind), tree[b"p"].mode) == (True, 0o640)


def test_L40_socket_is_skipped_and_told(tmp_path: Path) -> None:
    outcome = packed(tmp_path, lambda: socket.socket(socket.AF_UNIX).bind("sock"))

    assert outcome.packed.skipped == ("`sock` is a socket",)
    assert outcome.packed.entries == 0


def test_L41_holes_are_zeros_in_archive_and_holes_again(tmp_path: Path) -> None:
    size = 8 << 20

    def mutation() -> None:
        with open("f", "r+b") as out:
            out.truncate(size)

    outcome = packed(tmp_path, mutation)
    _, tree = unpacked(tmp_path, outcome.archive)

    assert (outcome.entries["f"][0].size, tree[b"f"].content) == (size, b"f" + bytes(size - 1))
    assert (tmp_path / "fs/f").stat().st_blocks * 512 <= 1 << 19


BIG = {
    "L42-ids": {"uid": 3_000_000, "gid": 2**32 - 2},
    "L44-before-1970": {"mtime": -1},
    "L44-epoch": {"mtime": 0},
    "L44-2242": {"mtime": 2**33},
    "L46-name-100": {"name": b"x" * 100},
    "L46-name-101": {"name": b"x" * 101},
    "L46-name-255": {"name": b"x" * 255},
    "L46-target-300": {"kind": "symlink", "linkname": b"t" * 300},
    "L46-target-4095": {"kind": "symlink", "linkname": b"t" * 4095},
    "L47-bytes": {"name": b"\xe9\xff"},
    "L48-newline": {"name": b"a\nb"},
    "L48-dash": {"name": b"-rf"},
    "L48-space": {"name": b"name "},
    "L38-device": {"kind": "block", "dev": (259, 65536)},
    "L33-attribute": {"xattrs": {b"user.raw": b"\0=\n\xff", b"security.capability": CAPABILITY}},
}


@pytest.mark.parametrize("fields", BIG.values(), ids=BIG)
def test_entry_survives_archive(fields: dict[str, object]) -> None:
    entry = Entry(**{"name": b"f", "kind": "file", "mode": 0o644, **fields})  # type: ignore[arg-type]  # a table

    content = archive((entry, b""))

    assert [each for each, _ in read_entries(io.BytesIO(content))] == [entry]


def test_L43_size_beyond_octal_is_written_as_record() -> None:
    written: list[bytes] = []
    writer = TarWriter(written.append)

    with pytest.raises(ArchiveRejected, match="changed while it was read"):
        writer.add(Entry(name=b"huge", kind="file", mode=0o644, size=2**33), [b"short"])

    assert b"19 size=8589934592\n" in b"".join(written)


@pytest.mark.parametrize(("mtime_ns", "expected"), [(7_900_000_000, 7), (-100_000_000, -1)])
def test_L44_time_is_rounded_down(tmp_path: Path, mtime_ns: int, expected: int) -> None:
    outcome = packed(tmp_path, lambda: os.utime("f", ns=(0, mtime_ns)))

    assert outcome.entries["f"][0].mtime == expected


def test_L45_newer_time_is_clamped_older_kept(tmp_path: Path) -> None:
    def mutation() -> None:
        Path("new").touch()
        Path("old").touch()
        os.utime("old", (7, 7))
        os.unlink("f")

    outcome = outcome_of(tmp_path, [[ROOT, file("f")]], mutation, clamp_mtime=1000)

    found = {name: entry.mtime for name, (entry, _) in outcome.entries.items()}
    assert found == {".": 1000, ".wh.f": 0, "new": 1000, "old": 7}


def test_L46_longest_path_survives(tmp_path: Path) -> None:
    parts = [f"{number:02}".ljust(255, "d") for number in range(15)]
    deep = ["/".join(parts[:count]) for count in range(1, 16)]
    content = archive(ROOT, *(folder(name) for name in deep), file(deep[-1] + "/f", b"x"))

    _, tree = unpacked(tmp_path, content)

    assert tree[deep[-1].encode() + b"/f"].content == b"x"


def test_L48_composed_and_decomposed_names_stay_two(tmp_path: Path) -> None:
    content = archive(
        ROOT, file("e\u0301", b"NFD"), file("\u00e9", b"NFC"), file("E", b"E"), file("e", b"e")
    )

    _, tree = unpacked(tmp_path, content)

    assert len(tree) == 5


def test_L49_archive_names_no_users(tmp_path: Path) -> None:
    outcome = packed(tmp_path, lambda: os.chmod("f", 0o600))

    headers = [outcome.archive[at : at + 512] for at in range(0, len(outcome.archive), 512)]
    assert {each[265:329] for each in headers if each[257:262] == b"ustar"} == {bytes(64)}


@needs("root")
def test_owner_is_kept(tmp_path: Path) -> None:
    content = archive(ROOT, file("f", uid=12, gid=34), folder("d", uid=5, gid=6))

    _, tree = unpacked(tmp_path, content)

    assert (tree[b"f"].owner, tree[b"d"].owner) == ((12, 34), (5, 6))


def test_owner_is_squashed(tmp_path: Path) -> None:
    _, tree = unpacked(tmp_path, archive(ROOT, file("f", uid=12, gid=34)), squash_ids=True)

    assert tree[b"f"].owner == (0, 0)


def test_unmapped_owner_is_refused(tmp_path: Path) -> None:
    content = archive(ROOT, file("f", uid=70000))

    with pytest.raises(ArchiveRejected, match=r"`f`.*owner 70000:0 is not among.*entry 2"):
        unpacked(tmp_path, content, squash_ids=False)


def test_capability_of_link_is_noted(tmp_path: Path) -> None:
    entry, _ = link("l", "x")
    fields = {name: getattr(entry, name) for name in Entry.__dataclass_fields__}
    content = archive(ROOT, (Entry(**{**fields, "xattrs": {b"user.x": b"1"}}), b""))

    result, _ = unpacked(tmp_path, content)

    assert result.degraded == (
        "`l`: attribute `user.x` not kept: not possible on this kind of file",
    )
    assert names(content) == ["./", "l"]
