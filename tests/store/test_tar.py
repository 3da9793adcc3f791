"""Our archive writer and reader, with CPython's tarfile and GNU tar as oracles."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from archives import archive, entries, file, folder, link, node
from features import needs

from pytest_rootfs.errors import ArchiveRejected
from pytest_rootfs.store.tar import Entry, TarWriter, read_entries

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


@pytest.mark.parametrize(
    "entry",
    [
        Entry(name=b"x" * 100, kind="file", mode=0o644),
        Entry(name=b"x" * 101, kind="file", mode=0o644),
        Entry(name=b"x" * 255, kind="dir", mode=0o755),
        Entry(name=b"\xe9\n -", kind="file", mode=0o7777),
        Entry(name=b"uid", kind="file", mode=0, uid=3_000_000, gid=2**32 - 2),
        Entry(name=b"old", kind="file", mode=0, mtime=-1),
        Entry(name=b"new", kind="file", mode=0, mtime=2**33),
        Entry(name=b"link", kind="symlink", mode=0o777, linkname=b"t" * 300),
        Entry(name=b"disk", kind="block", mode=0o660, dev=(259, 65536)),
        Entry(
            name=b"attributes",
            kind="file",
            mode=0o644,
            xattrs={b"user.raw": b"\0=\n\xff", b"security.capability": b"x" * 20},
        ),
    ],
    ids=lambda entry: ascii(entry.name)[:20],
)
def test_entry_survives_round_trip(entry: Entry) -> None:
    content = archive((entry, b""))

    found = [each for each, _ in read_entries(io.BytesIO(content))]

    assert found == [entry]


def test_size_beyond_octal_is_written_as_record() -> None:
    written: list[bytes] = []
    entry = Entry(name=b"huge", kind="file", mode=0o644, size=2**33)
    writer = TarWriter(written.append)

    with pytest.raises(ArchiveRejected, match="changed while it was read"):
        writer.add(entry, [b"short"])

    assert b"19 size=8589934592\n" in b"".join(written)


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
