"""Any input at all to the parsers: they succeed or refuse it in our words, in bounded memory."""

from __future__ import annotations

import io
import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from archives import (
    archive,
    extended,
    file,
    folder,
    header,
    link,
    node,
    padded,
    record,
    with_checksums,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_rootfs.errors import ImageError
from pytest_rootfs.image.view import ImageView
from pytest_rootfs.store import oci
from pytest_rootfs.store.documents import canonical_json, parse_json
from pytest_rootfs.store.store import Store
from pytest_rootfs.store.tar_reader import read_entries

pytestmark = pytest.mark.slow

MEMORY_MAX = 24 << 20
bounded = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))

SOUND = archive(
    folder("d"),
    file("d/" + "x" * 150, b"x" * 700, xattrs={b"user.a": b"b"}, mtime=2**33),
    link("l", "y" * 200),
    link("d/h", "d/" + "x" * 150, "hardlink"),
    node("n", "char", (259, 65536)),
)
SPARSE = b"".join(
    (
        extended(record(b"GNU.sparse.size", b"99") + record(b"GNU.sparse.map", b"0,1,9,1")),
        header(b"s", size=b"00000000002\0"),
        padded(b"xy"),
        extended(
            record(b"GNU.sparse.major", b"1")
            + record(b"GNU.sparse.minor", b"0")
            + record(b"GNU.sparse.realsize", b"99")
        ),
        header(b"t", size=b"00000001001\0"),
        padded(b"1\n5\n1\n"),
        padded(b"x"),
        header(b"u", kind=b"S"),
    )
)
NUMBERS = st.sampled_from([b"0", b"-1", b"9" * 20, b"1.5", b"", b"\xff" * 12, b"0000001\0"])


def is_refused(read: Callable[[], object]) -> bool:
    """Tell whether `read` refuses its input in our words; any other error is a defect."""
    tracemalloc.start()
    try:
        read()
    except ImageError:
        return True
    else:
        return False
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < MEMORY_MAX


def read_archive(content: bytes) -> None:
    for entry, data in read_entries(io.BytesIO(content)):
        assert 0 <= entry.size < 2**63
        for _, chunk in zip(range(8), data, strict=False):  # a hole may be as large as it likes
            assert len(chunk) <= 1 << 18


@bounded
@given(st.binary(max_size=4096))
def test_any_bytes_are_no_archive(content: bytes) -> None:
    is_refused(lambda: read_archive(content))


@bounded
@given(
    st.lists(
        st.tuples(st.integers(0, len(SPARSE + SOUND) - 1), st.binary(min_size=1, max_size=12)),
        min_size=1,
        max_size=6,
    ),
    st.integers(0, len(SPARSE + SOUND)),
)
def test_damaged_archive_is_refused_or_read(damage: list[tuple[int, bytes]], cut: int) -> None:
    content = bytearray(SPARSE + SOUND)
    for at, change in damage:
        content[at : at + len(change)] = change

    is_refused(lambda: read_archive(with_checksums(content)))
    is_refused(lambda: read_archive(with_checksums(content[:cut])))


@bounded
@given(
    kind=st.binary(min_size=1, max_size=1),
    fields=st.dictionaries(
        st.sampled_from(["name", "mode", "uid", "size", "mtime", "devices", "link", "prefix"]),
        st.one_of(NUMBERS, st.binary(max_size=12)),
    ),
    records=st.lists(
        st.tuples(
            st.sampled_from(
                [b"path", b"linkpath", b"size", b"uid", b"mtime", b"SCHILY.xattr.user.x"]
                + [b"GNU.sparse." + x for x in (b"size", b"map", b"major", b"minor", b"realsize")]
            ),
            st.one_of(NUMBERS, st.binary(max_size=300)),
        ),
        max_size=4,
    ),
    body=st.binary(max_size=600),
)
def test_any_header_is_refused_or_read(
    kind: bytes, fields: dict[str, bytes], records: list[tuple[bytes, bytes]], body: bytes
) -> None:
    widths = {"mode": 8, "uid": 8, "size": 12, "mtime": 12, "devices": 16}
    cut = {key: value.ljust(widths.get(key, 0), b"\0") for key, value in fields.items()}
    for key, width in widths.items():
        if key in cut:
            cut[key] = cut[key][:width]
    extra = extended(b"".join(record(*each) for each in records)) if records else b""
    content = extra + header(kind=kind, **cut) + padded(body)  # type: ignore[arg-type]  # a table

    is_refused(lambda: read_archive(content))


def test_sound_archives_are_read() -> None:
    """Guard the tests above: what they damage is sound."""
    assert not is_refused(lambda: read_archive(SPARSE + SOUND))


values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=20),
        st.sampled_from(["sha256:" + "1" * 64, "sha256:../../x", oci.LAYER_TYPE, "layers"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=10), inner, max_size=3)
    ),
    max_leaves=8,
)
PLACES = [
    ("manifest", ["schemaVersion"]),
    ("manifest", ["mediaType"]),
    ("manifest", ["config"]),
    ("manifest", ["config", "digest"]),
    ("manifest", ["config", "size"]),
    ("manifest", ["layers"]),
    ("manifest", ["layers", 0]),
    ("manifest", ["layers", 0, "size"]),
    ("manifest", ["layers", 0, "data"]),
    ("manifest", ["layers", 0, "urls"]),
    ("manifest", ["annotations"]),
    ("manifest", ["subject"]),
    ("config", ["rootfs"]),
    ("config", ["rootfs", "diff_ids"]),
    ("config", ["rootfs", "diff_ids", 0]),
    ("config", ["config"]),
    ("config", ["config", "Env"]),
    ("config", ["config", "User"]),
    ("config", ["config", "WorkingDir"]),
    ("config", ["config", "Entrypoint"]),
    ("config", ["history"]),
    ("config", ["architecture"]),
]


@bounded
@given(st.one_of(st.binary(max_size=200), values.map(lambda value: json.dumps(value).encode())))
def test_any_bytes_are_refused_or_json(content: bytes) -> None:
    is_refused(lambda: parse_json(content, what="it"))


@bounded
@given(st.sampled_from(PLACES), values)
def test_any_value_in_image_is_refused_or_read(
    store: Store, place: tuple[str, list[str | int]], value: Any
) -> None:
    digest = image_with(store, *place, value)

    is_refused(lambda: oci.read_image(store, digest))


def image_with(store: Store, document: str, path: list[str | int], value: Any) -> str:
    """Store an image that has `value` somewhere in its manifest or config; return its digest."""
    layer = {"digest": "sha256:" + "1" * 64, "size": 1, "mediaType": oci.LAYER_TYPE}
    config: dict[str, Any] = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    }
    manifest: dict[str, Any] = {"schemaVersion": 2, "layers": [layer]}
    if document == "config":
        set_in(config, path, value)
    blob = store.blobs.put(dumped(config), oci.CONFIG_TYPE, durable=False)
    manifest["config"] = blob.as_json()
    if document == "manifest":
        set_in(manifest, path, value)
    return store.blobs.put(dumped(manifest), oci.MANIFEST_TYPE, durable=False).digest


def set_in(target: Any, path: list[str | int], value: Any) -> None:
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value


def dumped(value: object) -> bytes:
    """Return JSON, also of what canonical JSON refuses: NaN, and halves of surrogate pairs."""
    try:
        return canonical_json(value)
    except ValueError:
        return json.dumps(value).encode()


names = st.lists(
    st.sampled_from(["a", "b", ".wh.a", ".wh..wh..opq", ".wh.", "..", "\udce9"]), max_size=4
).map("/".join)


@bounded
@given(
    st.lists(
        st.tuples(
            names,
            st.sampled_from(["file", "dir", "symlink", "hardlink", "char"]),
            st.integers(0, 0o7777),
            st.integers(0, 2**32),
            st.integers(0, 2**32),
            names,
        ),
        max_size=12,
    ),
    names,
)
def test_any_rows_make_a_view(rows: list[Any], asked: str) -> None:
    view = ImageView()

    def read() -> None:
        view.apply(rows)
        view.get(view.resolve(asked.encode("utf-8", "surrogateescape")))

    is_refused(read)
