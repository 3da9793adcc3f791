"""L24, L25, L58 to L68: what entries, in any order and over any layers, become in the view."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from archives import (
    Item,
    archive,
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
from namespaced import in_user_namespace
from overlays import is_multi_id, unpack_all, unpacked, view_of
from snapshots import Snapshot

from pytest_rootfs.errors import ArchiveRejected
from pytest_rootfs.kernel import mounts
from pytest_rootfs.store.layers import UnpackResult, unpack

pytestmark = needs("userns")

ROOT = folder(".", mtime=7)
BASE = archive(
    folder(".", 0o711, mtime=5),
    folder("d", 0o1770, mtime=3, xattrs={b"user.x": b"1"}),
    file("d/a", b"a", mtime=1),
    folder("d/sub", mtime=4),
    file("d/sub/b", b"b", 0o4711, mtime=2, xattrs={b"user.y": b"2"}),
    file("f", b"f"),
    link("l", "/d"),
)


def shape(tree: Snapshot) -> dict[str, object]:
    """Return names with contents: a file's bytes, a link's target, "dir"."""
    return {
        name.decode(): "dir" if stat.S_ISDIR(seen.kind) else seen.content
        for name, seen in tree.items()
        if name != b"."
    }


def over_base(tmp_path: Path, *items: Item | bytes) -> UnpackResult:
    """Unpack a layer over `BASE`; return its result."""

    def job() -> UnpackResult:
        below_fd = mounts.overlay_view(unpack_all(tmp_path, [BASE]))
        (tmp_path / "top").mkdir()
        target_fd = os.open(tmp_path / "top", os.O_RDONLY | os.O_DIRECTORY)
        source = io.BytesIO(raw(items))
        return unpack(source, target_fd, squash_ids=not is_multi_id(), below_fd=below_fd)

    return in_user_namespace(job)


def raw(items: Sequence[Item | bytes]) -> bytes:
    """Return an archive of entries in any order, which our writer refuses, and of raw headers."""
    parts = [each if isinstance(each, bytes) else archive_of(each) for each in items]
    return together(parts)


def archive_of(item: Item) -> bytes:
    """Return one entry without the archive's end."""
    entry, content = item
    number = {"file": b"0", "dir": b"5", "symlink": b"2", "hardlink": b"1"}[entry.kind]
    size = b"%011o\0" % len(content)
    mode = b"%07o\0" % entry.mode
    mtime = b"%011o\0" % entry.mtime
    raw_header = header(
        entry.name, kind=number, size=size, mode=mode, mtime=mtime, link=entry.linkname
    )
    return raw_header + padded(content)


def test_L24_hard_link_to_lower_layer_is_copied_up(tmp_path: Path) -> None:
    top = raw([ROOT, link("h", "d/sub/b", "hardlink")])

    tree = view_of(tmp_path, [BASE, top])

    one, other = tree[b"d/sub/b"], tree[b"h"]
    assert (one.content, one.mode, one.xattrs, one.mtime) == (b"b", 0o4711, ((b"user.y", b"2"),), 2)
    assert one == other
    assert one.first == b"d/sub/b"
    assert (tree[b"d"].mode, tree[b"d/sub"].mtime) == (0o1770, 4)


def test_L25_hard_link_to_later_entry_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveRejected, match=r"`h` is refused.*`later`, no earlier entry"):
        unpacked(tmp_path, raw([ROOT, link("h", "later", "hardlink"), file("later")]))


def test_hard_link_is_same_inode(tmp_path: Path) -> None:
    _, tree = unpacked(
        tmp_path,
        archive(
            ROOT,
            file("a", b"x"),
            link("b", "a", "hardlink"),
            link("l", "nowhere"),
            link("m", "l", "hardlink"),
            node("p", "fifo"),
            link("q", "p", "hardlink"),
        ),
    )

    assert [tree[name].first for name in (b"b", b"m", b"q")] == [b"a", b"l", b"p"]


@pytest.mark.parametrize("is_first", [True, False])
def test_L58_whiteout_spares_its_own_sibling(tmp_path: Path, *, is_first: bool) -> None:
    items = [file("f", b"new"), file(".wh.f", mode=0)]

    tree = view_of(tmp_path, [BASE, raw([ROOT, *(items[::-1] if is_first else items)])])

    assert tree[b"f"].content == b"new"


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_L59_opaque_marker_may_stand_anywhere(tmp_path: Path, place: int) -> None:
    inside: list[Item] = [file("d/new", b"n"), folder("d/sub"), file("d/sub/.wh.b", mode=0)]
    inside.insert(place, file("d/.wh..wh..opq", mode=0))

    tree = view_of(tmp_path, [BASE, raw([ROOT, folder("d"), *inside])])

    assert shape(tree) == {"d": "dir", "d/new": b"n", "d/sub": "dir", "f": b"f", "l": b"/d"}


def test_L60_whiteout_in_opaque_folder_is_no_ghost(tmp_path: Path) -> None:
    items = [ROOT, folder("d"), file("d/.wh..wh..opq", mode=0), file("d/.wh.a", mode=0)]

    _, tree = unpacked(tmp_path, archive(*items))

    assert shape(tree) == {"d": "dir"}


@pytest.mark.parametrize("is_first", [True, False])
def test_L61_whiteout_of_own_folder_makes_it_opaque(tmp_path: Path, *, is_first: bool) -> None:
    whiteout, new = file(".wh.d", mode=0), folder("d", 0o700)
    items = [whiteout, new] if is_first else [new, whiteout]

    tree = view_of(tmp_path, [BASE, raw([ROOT, *items, file("d/x", b"x")])])

    assert shape(tree) == {"d": "dir", "d/x": b"x", "f": b"f", "l": b"/d"}


def test_L61_entry_below_whiteout_makes_it_a_folder(tmp_path: Path) -> None:
    tree = view_of(tmp_path, [BASE, raw([ROOT, file(".wh.d", mode=0), file("d/x", b"x")])])

    assert shape(tree) == {"d": "dir", "d/x": b"x", "f": b"f", "l": b"/d"}
    assert (tree[b"d"].mode, tree[b"d"].mtime) == (0o755, 0)


def test_L62_whiteout_of_nothing_is_ignored(tmp_path: Path) -> None:
    top = raw([ROOT, folder("new"), file("new/.wh.x", mode=0), file(".wh.y", mode=0)])

    tree = view_of(tmp_path, [BASE, top])

    assert set(tree) == {b".", b"d", b"d/a", b"d/sub", b"d/sub/b", b"f", b"l", b"new"}


def test_L62_parents_of_whiteout_are_copied(tmp_path: Path) -> None:
    tree = view_of(tmp_path, [BASE, raw([file("d/sub/.wh.b", mode=0)])])

    assert b"d/sub/b" not in tree
    assert (tree[b"."].mode, tree[b"."].mtime) == (0o711, 5)
    assert (tree[b"d"].mode, tree[b"d"].mtime) == (0o1770, 3)
    assert tree[b"d"].xattrs == ((b"user.x", b"1"),)


def test_L63_missing_parents_are_copied_from_below(tmp_path: Path) -> None:
    tree = view_of(tmp_path, [BASE, raw([file("d/sub/new", b"n"), file("new/deep/x")])])

    assert (tree[b"d"].mode, tree[b"d"].mtime, tree[b"d/sub"].mtime) == (0o1770, 3, 4)
    assert tree[b"d/sub/b"].content == b"b"
    assert (tree[b"new"].mode, tree[b"new/deep"].mode, tree[b"new"].mtime) == (0o755, 0o755, 0)
    assert tree[b"."].mode == 0o711


def test_L63_later_entry_of_parent_counts(tmp_path: Path) -> None:
    tree = view_of(tmp_path, [BASE, raw([file("d/new"), folder("d", 0o700, mtime=9), ROOT])])

    assert (tree[b"d"].mode, tree[b"d"].mtime, tree[b"d"].xattrs) == (0o700, 9, ())


def test_L63_unknown_layers_below_are_told(tmp_path: Path) -> None:
    with pytest.raises(ArchiveRejected, match=r"`a/b` is refused: its parent folder `a` has no"):
        unpacked(tmp_path, raw([ROOT, file("a/b")]), below_fd=None)


@pytest.mark.parametrize(
    ("items", "uses_below"),
    [
        ([ROOT, folder("d"), file("d/x")], False),
        ([ROOT, file(".wh.f", mode=0)], False),
        ([folder("d"), file("d/x")], True),
        ([ROOT, file("d/x")], True),
        ([ROOT, link("h", "f", "hardlink")], True),
        ([ROOT, file(".wh.nothing", mode=0)], True),
        ([ROOT, file("l/x")], True),
    ],
)
def test_layer_that_needs_those_below_says_so(
    tmp_path: Path, items: list[Item], *, uses_below: bool
) -> None:
    assert over_base(tmp_path, *items).uses_below is uses_below


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([file("d"), file("d/x", b"x")], {"d": "dir", "d/x": b"x"}),
        ([file("d"), folder("d")], {"d": "dir"}),
        ([folder("d"), file("d/x"), file("d", b"d")], {"d": b"d"}),
        ([folder("d"), file("d/x"), file("d"), folder("d")], {"d": "dir"}),
        ([folder("d"), file("d/x"), link("d", "f")], {"d": b"f"}),
        ([folder("d"), file("d/x"), file("d"), file("d/y", b"y")], {"d": "dir", "d/y": b"y"}),
    ],
)
def test_L64_later_kind_replaces_earlier(
    tmp_path: Path, items: list[Item], expected: dict[str, object]
) -> None:
    tree = view_of(tmp_path, [BASE, raw([ROOT, *items])])

    assert shape(tree) == {"f": b"f", "l": b"/d", **expected}


def test_L65_folder_over_folder_keeps_children(tmp_path: Path) -> None:
    tree = view_of(tmp_path, [BASE, raw([ROOT, folder("d", 0o700, mtime=9)])])

    assert (tree[b"d"].mode, tree[b"d"].mtime, tree[b"d"].xattrs) == (0o700, 9, ())
    assert {b"d/a", b"d/sub/b"} <= set(tree)


def test_L66_times_of_folders_are_set_last(tmp_path: Path) -> None:
    items = [ROOT, folder("a", mtime=3), folder("a/b", mtime=4), file("a/b/c"), file("a/z")]

    _, tree = unpacked(tmp_path, archive(*items))

    assert [tree[name].mtime for name in (b".", b"a", b"a/b", b"a/z")] == [7, 3, 4, 0]


def test_L67_time_of_link_is_its_own(tmp_path: Path) -> None:
    _, tree = unpacked(tmp_path, archive(ROOT, file("f", mtime=1), link("l", "f", mtime=9)))

    assert (tree[b"f"].mtime, tree[b"l"].mtime) == (1, 9)


LONG = b"././@LongLink"
DIALECTS = {
    "V7-folder": ([header(b"old/", magic=bytes(8), kind=b"\0")], b"old"),
    "V7-file": ([header(b"old", magic=bytes(8), kind=b"\0")], b"old"),
    "contiguous": ([header(b"f", kind=b"7")], b"f"),
    "prefix": ([header(b"f", prefix=b"a/b")], b"a/b/f"),
    "no-prefix-in-GNU": ([header(b"f", prefix=b"a/b", magic=b"ustar  \0")], b"f"),
    "comment": ([extended(record(b"comment", b"x"), b"g"), header(b"f")], b"f"),
    "pax-path": ([extended(record(b"path", b"\xe9" * 200)), header(b"f")], b"\xe9" * 200),
    "GNU-L": (
        [header(LONG, kind=b"L", size=b"00000000005\0"), padded(b"long\0"), header()],
        b"long",
    ),
    "GNU-K": (
        [
            header(LONG, kind=b"K", size=b"00000000005\0"),
            padded(b"long\0"),
            header(b"l", kind=b"2", link=b"short"),
        ],
        b"l",
    ),
    "base-256": ([header(b"f", uid=b"\x80\0\0\0\0\0\0\x07")], b"f"),
    "blanks": ([header(b"f", mode=b"   644 \0")], b"f"),
}


@pytest.mark.parametrize(("parts", "name"), DIALECTS.values(), ids=DIALECTS)
def test_L68_dialect_is_unpacked(tmp_path: Path, parts: list[bytes], name: bytes) -> None:
    _, tree = unpacked(tmp_path, together(parts))

    assert name in tree
    assert tree[name].content in (b"", b"long")


def test_digest_is_of_whole_archive(tmp_path: Path) -> None:
    content = archive(ROOT) + bytes(512)

    result, _ = unpacked(tmp_path, content)

    assert (result.size, result.diff_id) == (2048, "sha256:" + hashlib.sha256(content).hexdigest())


def test_twice_is_told(tmp_path: Path) -> None:
    result, tree = unpacked(tmp_path, raw([ROOT, file("f", b"1"), file("f", b"2"), ROOT]))

    assert tree[b"f"].content == b"2"
    assert result.degraded == (
        "`f` occurs twice; the later entry counts",
        "the root occurs twice; the later entry counts",
    )


def test_remarks_have_an_end(tmp_path: Path) -> None:
    content = archive(ROOT, *(node(f"null{number:03}", "char", (1, 3)) for number in range(60)))

    result, _ = unpacked(tmp_path, content)

    assert (len(result.degraded), result.degraded[-1]) == (51, "and 10 more")


@pytest.mark.slow
def test_deep_tree_needs_few_descriptors(tmp_path: Path) -> None:
    deepest = "/".join(["d"] * 1500)
    names = [deepest[: 2 * depth - 1] for depth in range(1, 1500)]
    content = archive(ROOT, *(folder(name, mtime=9) for name in names))
    (tmp_path / "fs").mkdir()

    def job() -> UnpackResult:
        from pytest_rootfs.store.trees import remove_tree

        target_fd = os.open(tmp_path / "fs", os.O_RDONLY | os.O_DIRECTORY)
        result = unpack(io.BytesIO(content), target_fd, squash_ids=True)
        assert (tmp_path / "fs" / names[100]).stat().st_mtime == 9
        remove_tree(tmp_path / "fs")  # pytest's own cleaning gives up on it
        return result

    assert in_user_namespace(job).entries == 1500


MEMORY_PROGRAM = """
import io, os, sys
from archives import extended, header, record
from pytest_rootfs.store.layers import unpack
from pytest_rootfs.store.packing import pack
from pytest_rootfs.store.uppers import Sides

size = 2 << 30
records = record(b"GNU.sparse.size", b"%d" % size) + record(b"GNU.sparse.map", b"0,0")
content = extended(records) + header(b"f") + bytes(1024)
folder_fd = os.open(sys.argv[1], os.O_RDONLY)
unpack(io.BytesIO(content), folder_fd, squash_ids=True)
with open(os.devnull, "wb") as out:
    packed = pack(Sides(upper_fd=folder_fd), out)
# not getrusage(2), which counts the parent's memory before exec too
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(packed.size >> 30, status["VmHWM"].split()[0])
"""


@pytest.mark.slow
def test_file_of_two_gigabytes_needs_little_memory(tmp_path: Path) -> None:
    (tmp_path / "fs").mkdir()
    support = str(Path(__file__).parents[1] / "support")

    done = subprocess.run(
        [sys.executable, "-c", MEMORY_PROGRAM, tmp_path / "fs"],
        env={**os.environ, "PYTHONPATH": support},
        check=True,
        capture_output=True,
        text=True,
    )

    size_gib, peak_kb = map(int, done.stdout.split())
    assert (size_gib, (tmp_path / "fs/f").stat().st_blocks) == (2, 0)
    assert peak_kb < 64 << 10
