"""Write archives for tests: from entries by our writer, or header by header by hand."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from pytest_rootfs.store.entries import Entry, Kind
from pytest_rootfs.store.tar_reader import read_entries
from pytest_rootfs.store.tar_writer import TarWriter

Item = tuple[Entry, bytes]


def folder(name: str, mode: int = 0o755, **more: Any) -> Item:  # Any: fields of Entry
    return Entry(name=name.encode(), kind="dir", mode=mode, **more), b""


def file(name: str, content: bytes = b"", mode: int = 0o644, **more: Any) -> Item:  # as above
    return Entry(name=name.encode(), kind="file", mode=mode, size=len(content), **more), content


def link(name: str, target: str, kind: Kind = "symlink", mode: int = 0o777, mtime: int = 0) -> Item:
    entry = Entry(name=name.encode(), kind=kind, mode=mode, linkname=target.encode(), mtime=mtime)
    return entry, b""


def node(name: str, kind: Kind, dev: tuple[int, int] = (0, 0)) -> Item:
    return Entry(name=name.encode(), kind=kind, mode=0o600, dev=dev), b""


def archive(*items: Item) -> bytes:
    """Return the archive that our writer makes of these entries."""
    out = io.BytesIO()
    writer = TarWriter(out.write)
    for entry, content in items:
        writer.add(entry, [content] if content else None)
    writer.close()
    return out.getvalue()


def names(content: bytes) -> list[str]:
    """Return the names in an archive, folders with a final slash."""
    return [
        entry.name.decode(errors="surrogateescape") + "/" * (entry.kind == "dir")
        for entry, _ in read_entries(io.BytesIO(content))
    ]


def entries(content: bytes) -> dict[str, tuple[Entry, bytes]]:
    """Return every entry of an archive with its content, by name."""
    return {
        entry.name.decode(errors="surrogateescape"): (entry, data.read())
        for entry, data in read_entries(io.BytesIO(content))
    }


def header(
    name: bytes = b"file",
    *,
    kind: bytes = b"0",
    size: bytes = b"00000000000\0",
    mode: bytes = b"0000644\0",
    uid: bytes = b"0000000\0",
    mtime: bytes = b"00000000000\0",
    link: bytes = b"",
    magic: bytes = b"ustar\x0000",
    devices: bytes = b"0000000\x000000000\0",
    prefix: bytes = b"",
) -> bytes:
    """Return one raw header with a right checksum."""
    body = b"".join(
        (
            name.ljust(100, b"\0"),
            mode,
            uid,
            b"0000000\0",
            size,
            mtime,
            b" " * 8,
            kind,
            link.ljust(100, b"\0"),
            magic,
            bytes(64),
            devices,
            prefix.ljust(155, b"\0"),
            bytes(12),
        )
    )
    return body[:148] + b"%06o\0 " % sum(body) + body[156:]


def extended(records: bytes, kind: bytes = b"x") -> bytes:
    """Return an extended header with these raw records."""
    size = b"%011o\0" % len(records)
    return header(b"PaxHeaders.0/x", kind=kind, size=size) + padded(records)


def record(key: bytes, value: bytes) -> bytes:
    """Return one pax record."""
    length = len(key) + len(value) + 3
    total = length + len(str(length))
    total = length + len(str(total))
    return b"%d %s=%s\n" % (total, key, value)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


END = bytes(1024)


def together(parts: Sequence[bytes]) -> bytes:
    """Return an archive of these raw parts with a proper end."""
    return b"".join(parts) + END


def with_checksums(content: bytes | bytearray) -> bytes:
    """Return an archive whose headers, as they are, have the right checksums."""
    changed = bytearray(content)
    for at in range(0, len(changed) - 511, 512):
        if changed[at + 257 : at + 262] == b"ustar":
            changed[at + 148 : at + 156] = b" " * 8
            changed[at + 148 : at + 156] = b"%06o\0 " % sum(changed[at : at + 512])
    return bytes(changed)
