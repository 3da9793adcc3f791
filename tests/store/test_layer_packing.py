"""L01 to L57: what a container did, to a real overlay, becomes these entries of a layer."""

from __future__ import annotations

import io
import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from archives import entries, file, folder, link, names, node
from features import needs
from overlays import Outcome, outcome_of

from pytest_rootfs.errors import ArchiveRejected
from pytest_rootfs.kernel import syscalls
from pytest_rootfs.store.entries import Entry
from pytest_rootfs.store.packing import pack
from pytest_rootfs.store.tar_writer import TarWriter
from pytest_rootfs.store.uppers import Sides

pytestmark = needs("userns")

CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")
BASE = [
    folder(".", 0o711, mtime=1),
    folder("d", 0o750, mtime=1),
    folder("d/sub", 0o755, mtime=1),
    file("d/x", b"x", mtime=1),
    file("d/y", b"y", mtime=1),
    file("f", b"old\n", mtime=1),
    link("l", "d", mtime=1),
    file("one", b"1", mtime=1),
    node("p", "fifo"),
    link("two", "one", "hardlink", mtime=1),
]


def packed(tmp_path: Path, mutation: Callable[[], object], **options: object) -> Outcome:
    return outcome_of(tmp_path, [BASE], mutation, **options)  # type: ignore[arg-type]  # its keywords


def write(path: str, content: bytes = b"") -> Callable[[], object]:
    return lambda: Path(path).write_bytes(content)


def steps(*each: Callable[[], object]) -> Callable[[], None]:
    def mutation() -> None:
        for step in each:
            step()

    return mutation


def remove(path: str) -> Callable[[], object]:
    def mutation() -> None:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)

    return mutation


def make_dir(path: str, mode: int = 0o755) -> Callable[[], object]:
    return lambda: os.mkdir(path, mode)


def touch(path: str, mtime: int) -> Callable[[], object]:
    return lambda: os.utime(path, (mtime, mtime), follow_symlinks=False)


def test_L01_deleted_file_becomes_whiteout(tmp_path: Path) -> None:
    outcome = packed(tmp_path, remove("d/x"))

    assert names(outcome.archive) == ["./", "d/", "d/.wh.x"]
    whiteout, content = outcome.entries["d/.wh.x"]
    assert (whiteout, content) == (Entry(name=b"d/.wh.x", kind="file", mode=0), b"")


TREES = {
    "L02-deleted-again": (steps(write("new"), remove("new")), []),
    "L04-folder-made-anew": (
        steps(remove("d"), make_dir("d"), write("d/0")),
        ["./", "d/", "d/.wh.sub", "d/.wh.x", "d/.wh.y", "d/0"],
    ),
    "L05-new-folder-renamed": (
        steps(make_dir("brand"), write("brand/x"), lambda: os.rename("brand", "brand2")),
        ["./", "brand2/", "brand2/x"],
    ),
    "L06-file-to-folder": (
        steps(remove("f"), make_dir("f"), write("f/x")),
        ["./", "f/", "f/x"],
    ),
    "L07-folder-to-file": (steps(remove("d"), write("d")), ["./", "d"]),
    "L08-folder-to-link": (
        steps(remove("d"), lambda: os.symlink("f", "d")),
        ["./", "d"],
    ),
    "L09-link-to-folder": (steps(remove("l"), make_dir("l")), ["./", "l/"]),
    "L10-fifo-to-file": (steps(remove("p"), write("p")), ["./", "p"]),
    "L12-identical-folder": (
        steps(
            remove("d"),
            make_dir("d"),
            lambda: os.chmod("d", 0o750),
            make_dir("d/sub"),
            write("d/x", b"x"),
            write("d/y", b"y"),
            touch("d/x", 1),
            touch("d/y", 1),
        ),
        [],
    ),
    "L13-folder-moved": (
        lambda: subprocess.run(["mv", "d", "e"], check=True),
        ["./", ".wh.d", "e/", "e/sub/", "e/x", "e/y"],
    ),
    "L17-whiteouts-first": (
        steps(remove("d/y"), write("d/a"), remove("f")),
        ["./", ".wh.f", "d/", "d/.wh.y", "d/a"],
    ),
    "L21-one-of-two-links": (lambda: os.chmod("two", 0o600), ["./", "two"]),
    "L22-link-to-old-file": (lambda: os.link("f", "g"), ["./", "f", "g"]),
    "L26-mode": (lambda: os.chmod("f", 0o600), ["./", "f"]),
    "L28-time-of-file": (touch("f", 5), ["./", "f"]),
    "L28-time-of-folder": (touch("d", 5), []),
    "L29-time-and-back": (steps(touch("f", 5), touch("f", 1)), []),
    "L40-socket": (lambda: socket.socket(socket.AF_UNIX).bind("sock"), []),
    "L50-depth-first": (
        steps(write("d-"), make_dir("d0"), write("d/z"), write("d/sub/n")),
        ["./", "d/", "d/sub/", "d/sub/n", "d/z", "d-", "d0/"],
    ),
    "L53-root": (lambda: os.chmod(".", 0o700), ["./"]),
    "L55-nothing": (lambda: None, []),
}


@pytest.mark.parametrize(("mutation", "expected"), TREES.values(), ids=TREES)
def test_change_becomes_entries(
    tmp_path: Path, mutation: Callable[[], object], expected: list[str]
) -> None:
    outcome = packed(tmp_path, mutation)

    assert names(outcome.archive) == expected
    assert outcome.packed.entries == len(expected)


@pytest.mark.parametrize("hidden", [b"f", b"/f", b"./f/"])
def test_L03_hidden_file_leaves_no_whiteout(tmp_path: Path, hidden: bytes) -> None:
    outcome = packed(tmp_path, remove("f"), hidden=[hidden])

    assert names(outcome.archive) == []


@needs("root")
def test_L11_device_to_file_has_no_whiteout(tmp_path: Path) -> None:
    base, upper = tmp_path / "base", tmp_path / "upper"
    for path in (base, upper):
        path.mkdir()
    os.mknod(base / "n", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    (upper / "n").touch()

    assert names(pack_raw(upper, base)) == ["./", "n"]


def pack_raw(upper: Path, base: Path | None = None) -> bytes:
    """Pack a folder as it lies there, without an overlay."""
    out = io.BytesIO()
    fds = [os.open(path, os.O_RDONLY) for path in (upper, base) if path is not None]
    try:
        pack(Sides(upper_fd=fds[0], base_fd=fds[1] if len(fds) > 1 else -1), out)
    finally:
        for fd in fds:
            os.close(fd)
    return out.getvalue()


@pytest.mark.parametrize(
    ("case", "name"), [("L14", "redirect"), ("L15", "metacopy")], ids=["L14", "L15"]
)
def test_reference_of_foreign_overlay_is_refused(tmp_path: Path, case: str, name: str) -> None:
    attribute = ("f", f"user.overlay.{name}", b"/x")

    with pytest.raises(ArchiveRejected, match=f"`f`.*only a reference.*{name}"):
        packed(tmp_path, lambda: os.chmod("f", 0o600), upper_attributes=[attribute])


def test_L16_attribute_whiteout_is_whiteout(tmp_path: Path) -> None:
    attribute = ("f", "user.overlay.whiteout", b"y")

    outcome = packed(tmp_path, write("f"), upper_attributes=[attribute])

    assert names(outcome.archive) == ["./", ".wh.f"]


@pytest.mark.parametrize(
    ("created", "told"),
    [
        (["d/.wh.x", ".wh..wh.y"], "`d/.wh.x`, `.wh..wh.y`"),
        ([".wh."], "`.wh.`"),
        ([".wh..wh..opq"], "`.wh..wh..opq`"),
    ],
    ids=["L18", "L19", "L18-opaque"],
)
def test_reserved_name_is_refused(tmp_path: Path, created: list[str], told: str) -> None:
    with pytest.raises(ArchiveRejected, match="mean a deletion") as refused:
        packed(tmp_path, steps(*(write(name) for name in created)))

    assert sorted(refused.value.detail.split(", ")) == sorted(told.split(", "))


def test_L20_new_names_of_one_inode_are_linked(tmp_path: Path) -> None:
    outcome = packed(tmp_path, steps(write("n2", b"x"), lambda: os.link("n2", "d/n1")))

    assert outcome.entries["d/n1"][0].kind == "file"
    second, _ = outcome.entries["n2"]
    assert (second.kind, second.linkname, second.size) == ("hardlink", b"d/n1", 0)


def test_L21_changed_link_is_a_file(tmp_path: Path) -> None:
    outcome = packed(tmp_path, write("two", b"new"))

    entry, content = outcome.entries["two"]
    assert (entry.kind, content) == ("file", b"new")


def test_L22_link_to_old_file_is_linked(tmp_path: Path) -> None:
    outcome = packed(tmp_path, lambda: os.link("f", "g"))

    assert outcome.entries["f"][1] == b"old\n"
    assert outcome.entries["g"][0].linkname == b"f"


@pytest.mark.parametrize("kind", ["symlink", "fifo"])
def test_L23_link_to_any_kind_is_linked(tmp_path: Path, kind: str) -> None:
    make = {"symlink": lambda: os.symlink("x", "a"), "fifo": lambda: os.mkfifo("a")}[kind]

    outcome = packed(tmp_path, steps(make, lambda: os.link("a", "b", follow_symlinks=False)))

    found = [(entry.kind, entry.linkname) for entry, _ in outcome.entries.values()]
    assert found[1:] == [(kind, b"x" if kind == "symlink" else b""), ("hardlink", b"a")]


@needs("root")
def test_L23_link_to_device_is_linked(tmp_path: Path) -> None:
    os.mknod(tmp_path / "a", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.link(tmp_path / "a", tmp_path / "b")

    assert entries(pack_raw(tmp_path))["b"][0].linkname == b"a"


@needs("root")
def test_L27_owner_is_entry(tmp_path: Path) -> None:
    outcome = packed(tmp_path, lambda: os.chown("f", 12, 34))

    entry, content = outcome.entries["f"]
    assert (entry.uid, entry.gid, content) == (12, 34, b"old\n")


def test_L53_base_layer_starts_with_root(tmp_path: Path) -> None:
    (tmp_path / "upper").mkdir(mode=0o755)
    (tmp_path / "upper" / "f").touch()

    content = pack_raw(tmp_path / "upper")

    assert names(content) == ["./", "f"]
    assert entries(content)["."][0].mode == 0o755


def test_L51_parents_have_attributes_of_image(tmp_path: Path) -> None:
    outcome = packed(tmp_path, remove("d/x"))

    assert [outcome.entries[name][0].mode for name in (".", "d")] == [0o711, 0o750]


def test_L56_file_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(bytes(16 << 20))  # more than waits to be written

    class Growing(io.BytesIO):
        def write(self, data: object) -> int:
            with (tmp_path / "log").open("ab") as log:
                log.write(b"x")
            return super().write(data)  # type: ignore[arg-type]  # bytes, as pack writes

    upper_fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(ArchiveRejected, match="`log` changed while it was read"):
            pack(Sides(upper_fd=upper_fd), Growing())
    finally:
        os.close(upper_fd)


def test_L56_short_data_is_refused() -> None:
    writer = TarWriter(lambda _: None)

    with pytest.raises(ArchiveRejected, match="changed while it was read"):
        writer.add(Entry(name=b"f", kind="file", mode=0o644, size=9), [b"short"])


def test_L57_other_mount_is_not_in_layer(tmp_path: Path) -> None:
    def mutation() -> None:
        syscalls.mount("other", b"d", "tmpfs", 0, None)
        Path("d/volume").touch()
        Path("g").touch()

    outcome = packed(tmp_path, mutation)

    assert names(outcome.archive) == ["./", "g"]
