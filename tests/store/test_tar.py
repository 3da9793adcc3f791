"""Our archive writer and reader, with CPython's tarfile and GNU tar as oracles."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from archives import (
    END,
    archive,
    entries,
    extended,
    file,
    folder,
    header,
    link,
    node,
    padded,
    record,
    together,
)
from features import needs

from pytest_rootfs.errors import ArchiveRejected
from pytest_rootfs.store.entries import Entry
from pytest_rootfs.store.tar_reader import read_entries
from pytest_rootfs.store.tar_writer import TarWriter

SAMPLE = (
    folder("."),
    folder("dir", 0o1777, mtime=315532800),
    file("dir/file", b"content\n", 0o4755, uid=1000, gid=3_000_000),
    link("dir/hard", "dir/file", "hardlink"),
    link("dir/link", "/etc/passwd"),
    node("dir/null", "char", (1, 3)),
    node("dir/pipe", "fifo"),
)


def test_bytes_of_assembly_are_frozen() -> None:
    content = archive(*SAMPLE)

    digest = hashlib.sha256(content).hexdigest()

    assert digest == "c8bf4c21d054f903f3968e2c3e42410368851a07d3605dfc2e501cae8e6b80fa"


def test_tarfile_reads_what_we_write() -> None:
    content = archive(*SAMPLE)

    with tarfile.open(fileobj=io.BytesIO(content)) as oracle:
        members = oracle.getmembers()

    assert [(m.name, m.type, m.mode, m.uid, m.gid, m.size, m.mtime) for m in members] == [
        (".", tarfile.DIRTYPE, 0o755, 0, 0, 0, 0),
        ("dir", tarfile.DIRTYPE, 0o1777, 0, 0, 0, 315532800),
        ("dir/file", tarfile.REGTYPE, 0o4755, 1000, 3_000_000, 8, 0),
        ("dir/hard", tarfile.LNKTYPE, 0o777, 0, 0, 0, 0),
        ("dir/link", tarfile.SYMTYPE, 0o777, 0, 0, 0, 0),
        ("dir/null", tarfile.CHRTYPE, 0o600, 0, 0, 0, 0),
        ("dir/pipe", tarfile.FIFOTYPE, 0o600, 0, 0, 0, 0),
    ]


def test_gnu_tar_lists_what_we_write() -> None:
    long_name = "dir/" + "x" * 200
    content = archive(folder("dir"), file(long_name, b"1"), link("link", "y" * 300))

    listed = subprocess.run(["tar", "-t"], input=content, capture_output=True, check=True)

    assert listed.stderr == b""
    assert listed.stdout.decode().split() == ["dir/", long_name, "link"]


@pytest.mark.parametrize("version", ["USTAR", "GNU", "PAX"])
def test_reader_agrees_with_tarfile(version: str) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=getattr(tarfile, f"{version}_FORMAT")) as tar:
        for number, name in enumerate(["plain", "d" * 90 + "/" + "f" * 90, "läng"]):
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.uid, info.mode = number, 7, number, 0o640
            tar.addfile(info, io.BytesIO(b"x" * number))

    found = [
        (entry.name.decode(), entry.uid, entry.mtime, entry.mode, data.read())
        for entry, data in read_entries(io.BytesIO(out.getvalue()))
    ]

    assert found == [
        ("plain", 0, 7, 0o640, b""),
        ("d" * 90 + "/" + "f" * 90, 1, 7, 0o640, b"x"),
        ("läng", 2, 7, 0o640, b"xx"),
    ]


def test_parents_written_first() -> None:
    writer = TarWriter(lambda _: None)

    with pytest.raises(ValueError, match="no parent folder"):
        writer.add(Entry(name=b"a/b", kind="file", mode=0o644))


@pytest.mark.parametrize(
    "broken",
    [
        {"name": b"/absolute"},
        {"name": b"dir/"},
        {"name": b"twice"},
        {"kind": "dir", "size": 1},
        {"kind": "symlink"},
        {"kind": "hardlink", "linkname": b"missing"},
        {"uid": 2**32 - 1},
        {"linkname": b"to"},
    ],
)
def test_writer_refuses_wrong_entry(broken: Mapping[str, object]) -> None:
    writer = TarWriter(lambda _: None)
    writer.add(Entry(name=b"twice", kind="file", mode=0o644))
    fields: dict[str, object] = {"name": b"name", "kind": "file", "mode": 0o644, **broken}

    with pytest.raises(ValueError, match="b'"):
        writer.add(Entry(**fields))  # type: ignore[arg-type]  # that is the point


def test_unread_data_is_skipped() -> None:
    content = archive(file("big", b"x" * 100_000), file("small", b"y"))

    found = {entry.name: data.read(3) for entry, data in read_entries(io.BytesIO(content))}

    assert found == {b"big": b"xxx", b"small": b"y"}


@needs("dpkg-deb")
def test_debian_package_is_read(tmp_path: Path) -> None:
    control = tmp_path / "package" / "DEBIAN" / "control"
    control.parent.mkdir(parents=True, mode=0o755)
    control.write_text("Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x\nDescription: x\n")
    (tmp_path / "package" / "usr").mkdir()
    (tmp_path / "package" / "usr" / "file").write_text("hello")
    build = ["dpkg-deb", "--root-owner-group", "-b", "package", "x.deb"]
    subprocess.run(build, cwd=tmp_path, check=True, capture_output=True)

    unpacked = subprocess.run(
        ["dpkg-deb", "--fsys-tarfile", "x.deb"], cwd=tmp_path, check=True, capture_output=True
    )

    found = entries(unpacked.stdout)
    assert list(found) == [".", "usr", "usr/file"]
    assert found["usr/file"][1] == b"hello"


@needs("tar")
@pytest.mark.parametrize(
    "options",
    [
        ["--format=gnu"],
        ["--format=posix", "--sparse-version=0.0"],
        ["--format=posix", "--sparse-version=0.1"],
        ["--format=posix", "--sparse-version=1.0"],
    ],
    ids=lambda options: options[-1],
)
def test_L68_sparse_file_of_gnu_tar_is_read(tmp_path: Path, options: list[str]) -> None:
    with (tmp_path / "many").open("wb") as many:
        for number in range(40):
            many.seek(number * 100_000)
            many.write(b"piece %d" % number)
        many.truncate(5_000_000)
    with (tmp_path / "empty").open("wb") as empty:
        empty.truncate(1 << 20)
    make = ["tar", "-S", *options, "-cf", "-", "many", "empty"]

    made = subprocess.run(make, cwd=tmp_path, check=True, capture_output=True).stdout

    found = {name: content for name, (_, content) in entries(made).items()}
    assert len(made) < 1 << 20
    assert found == {name: (tmp_path / name).read_bytes() for name in ("many", "empty")}


SPARSE = [
    ({b"map": b"0,1,0,1"}, "not in order"),
    ({b"map": b"0,1,2"}, "not made of pairs"),
    ({b"map": b"8,1"}, "does not fit its size"),
    ({b"map": b"0,2"}, "does not fit its size"),
    ({b"map": b"0,-1"}, "not in order"),
    ({b"map": b"0,x"}, "not a number"),
    ({b"map": b"0,1", b"size": b"-1"}, "size -1 is out of range"),
    ({b"map": b"0,1", b"size": b"%d" % 2**64}, "out of range"),
    ({b"offset": b"0"}, "not a number"),
    ({b"offset": b"0", b"numbytes": b"1,2"}, "not made of pairs"),
    ({b"major": b"2", b"minor": b"0"}, "not known"),
    ({b"major": b"1", b"minor": b"0", b"realsize": b"1"}, "cut off"),
]


@pytest.mark.parametrize(("records", "rule"), SPARSE, ids=range(len(SPARSE)))
def test_L68_wrong_sparse_map_is_refused(records: dict[bytes, bytes], rule: str) -> None:
    fields = {b"size": b"4", **records}
    body = b"".join(record(b"GNU.sparse." + key, value) for key, value in fields.items())
    content = together([extended(body), header(b"f", size=b"00000000001\0"), padded(b"x")])

    with pytest.raises(ArchiveRejected, match=rule):
        list(read_entries(io.BytesIO(content)))


def test_L68_holes_are_not_read() -> None:
    body = record(b"GNU.sparse.size", b"%d" % 2**62) + record(b"GNU.sparse.map", b"0,0")

    found = [
        entry.size for entry, _ in read_entries(io.BytesIO(together([extended(body), header()])))
    ]

    assert found == [2**62]


def test_zeros_after_end_are_read() -> None:
    source = io.BytesIO(archive(*SAMPLE) + bytes(10240))

    assert len(list(read_entries(source))) == len(SAMPLE)
    assert source.read() == b""


def test_signed_checksum_is_accepted() -> None:
    plain = header(b"\xe9")
    total = sum(byte - 256 if byte > 127 else byte for byte in plain[:148] + b" " * 8 + plain[156:])

    found = entries(plain[:148] + b"%06o\0 " % total + plain[156:] + END)

    assert list(found) == ["\udce9"]
