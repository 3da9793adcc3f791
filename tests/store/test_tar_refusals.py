"""Hostile and broken archives: every one is refused with a sentence that names the rule."""

from __future__ import annotations

import io
import random

import pytest
from archives import END, archive, extended, file, folder, header, link, padded, record, together

from pytest_rootfs.errors import ArchiveRejected
from pytest_rootfs.store.tar import read_entries

LONG = b"././@LongLink"
GOOD = archive(folder("d"), file("d/f", b"x" * 700))


def read_all(content: bytes) -> list[tuple[bytes, bytes]]:
    return [(entry.name, data.read()) for entry, data in read_entries(io.BytesIO(content))]


@pytest.mark.parametrize(
    ("parts", "rule"),
    [
        ([header(b"../x")], "contains `..`"),
        ([header(b"a/../../x")], "contains `..`"),
        ([extended(record(b"path", b"x" * 256)), header()], "longer than 255"),
        ([extended(record(b"path", b"x/" * 2048)), header()], "longer than 4095"),
        ([header(b"")], "name is empty"),
        ([header(b".", kind=b"2", link=b"/")], "the root cannot be a symlink"),
        ([header(b"/.", kind=b"0")], "the root cannot be a file"),
        ([header(kind=b"1", link=b"../../etc/shadow")], "contains `..`"),
        ([header(b"f", kind=b"1", link=b"./f")], "hard link to `f`"),
        ([header(b"f", kind=b"1", link=b".")], "hard link to `.`"),
        ([header(kind=b"2")], "target of the symbolic link is empty"),
        ([header(kind=b"S")], "not supported"),
        ([header(kind=b"Z")], "not supported"),
        ([header(kind=b"5", size=b"00000000001\0"), padded(b"x")], "cannot have data"),
        ([header(kind=b"1", link=b"x", size=b"00000000001\0"), padded(b"x")], "cannot have data"),
        ([header(size=b"\xff" * 12)], "size -1 is out of range"),
        ([header(size=b"\x80" + b"\xff" * 11)], "out of range"),
        ([header(size=b"0000000000x\0")], "size is not a number"),
        ([header(uid=b"\xff" * 8)], "uid -1 is out of range"),
        ([header(uid=b"\x80" + b"\xff" * 7)], "out of range"),
        ([header(kind=b"3", devices=b"0010000\x000000000\0")], "no device 4096"),
        ([extended(record(b"size", b"-1")), header()], "size -1 is out of range"),
        ([extended(record(b"size", b"1.5")), header()], "not a whole number"),
        ([extended(record(b"uid", b"4294967295")), header()], "out of range"),
        ([extended(record(b"mtime", b"now")), header()], "not a number"),
        ([extended(record(b"path", b"../x")), header()], "contains `..`"),
        ([extended(record(b"path", b"a\0b")), header()], "NUL"),
        ([extended(record(b"GNU.sparse.major", b"1")), header()], "sparse"),
        ([extended(b"99 path=evil\n"), header()], "lies about its length"),
        ([extended(b"11 path=evil\n"), header()], "lies about its length"),
        ([extended(b"12 path=evil\n"), header()], "lies about its length"),
        ([extended(b"path=evil\n"), header()], "no length"),
        ([extended(b"-1 path=evil\n"), header()], "no length"),
        ([extended(b"0 path=evil\n"), header()], "no length"),
        ([extended(record(b"path", b"a") * 2), header()], "`path` twice"),
        ([extended(record(b"path", b"a")) * 2, header()], "two headers set `path`"),
        ([extended(record(b"path", b"evil"), b"g"), header()], "global header sets `path`"),
        ([header(LONG, kind=b"L", size=b"00010000000\0")], "extended header of"),
        ([header(LONG, kind=b"L", size=b"00000000004\0"), padded(b"a\0b\0"), header()], "NUL"),
        ([extended(record(b"path", b"a"))], "ends after an extended header"),
        ([header(size=b"00000000001\0"), b"x" + b"y" * 511], "padding is not zero"),
        ([header()[:148] + b"000000\0 " + header()[156:]], "wrong checksum"),
        ([b"garbage".ljust(512)], "checksum"),
        ([header(b"a"), b"garbage".ljust(512)], "entry 2"),
    ],
)
def test_broken_archive_is_refused(parts: list[bytes], rule: str) -> None:
    content = together(parts)

    with pytest.raises(ArchiveRejected) as refused:
        read_all(content)

    assert rule in refused.value.what


@pytest.mark.parametrize("length", [1, 511, 512, 700, 1024, 1600, len(GOOD) - 1, len(GOOD) - 512])
def test_cut_archive_is_refused(length: int) -> None:
    with pytest.raises(ArchiveRejected, match="cut off"):
        read_all(GOOD[:length])


def test_empty_file_is_no_archive() -> None:
    with pytest.raises(ArchiveRejected, match="cut off"):
        read_all(b"")


def test_data_after_end_is_refused() -> None:
    with pytest.raises(ArchiveRejected, match="after the end"):
        read_all(GOOD + bytes(512) + b"x")


def test_zeros_after_end_are_read() -> None:
    source = io.BytesIO(GOOD + bytes(10240))

    found = list(read_entries(source))

    assert len(found) == 2
    assert source.read() == b""


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([header(b"/etc/x")], b"etc/x"),
        ([header(b"./a//b/./c")], b"a/b/c"),
        ([header(b"f", prefix=b"a/b")], b"a/b/f"),
        ([header(b"f", prefix=b"a/b", magic=b"ustar  \0")], b"f"),
        ([header(b"old/", magic=bytes(8), kind=b"\0")], b"old"),
        ([extended(record(b"comment", b"x"), b"g"), header(b"f")], b"f"),
        ([extended(record(b"path", b"\xe9" * 200)), header(b"f")], b"\xe9" * 200),
        ([header(LONG, kind=b"L", size=b"00000000005\0"), padded(b"long\0"), header()], b"long"),
        ([header(b"f", uid=b"\x80\0\0\0\0\x2d\xc6\xc0")], b"f"),
        ([header(b"f", mode=b"   644 \0")], b"f"),
    ],
)
def test_foreign_dialect_is_understood(parts: list[bytes], expected: bytes) -> None:
    found = read_all(together(parts))

    assert found == [(expected, b"")]


def test_signed_checksum_is_accepted() -> None:
    plain = header(b"\xe9")
    total = sum(byte - 256 if byte > 127 else byte for byte in plain[:148] + b" " * 8 + plain[156:])

    found = read_all(plain[:148] + b"%06o\0 " % total + plain[156:] + END)

    assert found == [(b"\xe9", b"")]


def test_symlink_target_stays_verbatim() -> None:
    content = archive(link("l", "../../../../etc"))

    found = [entry.linkname for entry, _ in read_entries(io.BytesIO(content))]

    assert found == [b"../../../../etc"]


def test_random_damage_never_escapes_as_another_error() -> None:
    source = random.Random(1)
    sound = archive(
        folder("d"),
        file("d/" + "x" * 150, b"x" * 700, xattrs={b"user.a": b"b"}),
        link("l", "y" * 200),
        link("d/h", "d/" + "x" * 150, "hardlink"),
    )
    refused = 0

    for _ in range(500):
        content = bytearray(sound)
        for _ in range(source.choice((1, 2, 4))):
            content[source.randrange(len(content))] = source.choice((0, 47, 57, 128, 255))
        try:
            read_all(with_checksums(content))
        except ArchiveRejected:
            refused += 1

    assert 0 < refused < 500


def with_checksums(content: bytearray) -> bytes:
    """Return an archive whose headers, as they are, have the right checksums."""
    for at in range(0, len(content), 512):
        if content[at + 257 : at + 262] == b"ustar":
            content[at + 148 : at + 156] = b" " * 8
            content[at + 148 : at + 156] = b"%06o\0 " % sum(content[at : at + 512])
    return bytes(content)
