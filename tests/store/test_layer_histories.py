"""L70 on random histories: what a container did to a real overlay gives others its tree."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from archives import archive, file, folder, link, node
from features import needs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from judges import podman_tree, umoci_tree
from namespaced import in_user_namespace
from overlays import look, mount_overlay, mount_upper, unpack_all
from places import temporary_folder
from snapshots import Snapshot, as_mounted, snapshot, without_owners

from pytest_rootfs.kernel import mounts
from pytest_rootfs.store.packing import pack
from pytest_rootfs.store.uppers import Sides

pytestmark = [needs("userns", "umoci"), pytest.mark.slow]

BASE = archive(
    folder(".", 0o755, mtime=1),
    folder("a", 0o1777, mtime=2),  # podman leaves the attributes of an old folder on a new one
    folder("a/b", 0o700, mtime=3),
    file("a/b/c", b"deep", 0o4755, mtime=4),
    file("a/c", b"x", mtime=5, xattrs={b"user.base": b"\0="}),
    link("a/d", "a/c", "hardlink", mode=0o644, mtime=5),
    file("b", b"content", mtime=6),
    link("c", "a", mtime=7),
    node("e", "fifo"),
)
NAMES = [b"a", b"b", b"c", b"d", b"e", b"\xe9\n -"]
paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(b"/".join)
contents = st.sampled_from([b"", b"x", b"content", b"\0" * 5000, b"y" * 1000])
operations = st.lists(
    st.one_of(
        st.tuples(st.just("write"), paths, contents),
        st.tuples(st.just("append"), paths, contents),
        st.tuples(st.just("truncate"), paths, st.sampled_from([0, 3, 300_000])),
        st.tuples(st.just("remove"), paths),
        st.tuples(st.just("make_anew"), paths),
        st.tuples(st.just("mkdir"), paths, st.sampled_from([0o700, 0o1777, 0o2755])),
        st.tuples(st.just("rename"), paths, paths),
        st.tuples(st.just("link"), paths, paths),
        st.tuples(st.just("symlink"), paths, paths),
        st.tuples(st.just("fifo"), paths),
        st.tuples(st.just("chmod"), paths, st.sampled_from([0o700, 0o755, 0o4711])),
        st.tuples(st.just("chown"), paths, st.sampled_from([0, 7, 65534])),
        st.tuples(st.just("xattr"), paths, st.sampled_from([b"1", b"\0\n=\xff"])),
        st.tuples(st.just("drop_xattr"), paths),
        st.tuples(st.just("utime"), paths, st.sampled_from([0, 5, 2**33])),
    ),
    max_size=25,
)


def remove(path: bytes) -> None:
    if stat.S_ISDIR(os.lstat(path).st_mode):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def append(path: bytes, content: bytes) -> None:
    with open(path, "ab") as out:
        out.write(content)


def make_anew(path: bytes) -> None:
    remove(path)
    os.mkdir(path)


def mkdir(path: bytes, mode: int) -> None:
    os.mkdir(path)
    os.chmod(path, mode)


ACTIONS: dict[str, Callable[..., object]] = {
    "write": lambda path, content: Path(os.fsdecode(path)).write_bytes(content),
    "append": append,
    "truncate": os.truncate,
    "remove": remove,
    "make_anew": make_anew,
    "mkdir": mkdir,
    "rename": os.rename,
    "link": lambda path, target: os.link(path, target, follow_symlinks=False),
    "symlink": lambda path, target: os.symlink(target, path),
    "fifo": os.mkfifo,
    "chmod": os.chmod,
    "chown": lambda path, owner: os.chown(path, owner, owner, follow_symlinks=False),
    "xattr": lambda path, value: os.setxattr(path, "user.x", value),
    "drop_xattr": lambda path: os.removexattr(path, "user.base"),
    "utime": lambda path, time: os.utime(path, (time, time), follow_symlinks=False),
}


def play(history: Sequence[tuple[Any, ...]]) -> None:
    """Do all of a history that the kernel allows; opening a fifo would wait for ever."""
    for name, path, *more in history:
        if name in ("write", "append", "truncate"):
            with contextlib.suppress(OSError):
                if stat.S_ISFIFO(os.stat(path).st_mode):
                    continue
        with contextlib.suppress(OSError):
            ACTIONS[name](path, *more)


def lived(place: Path, history: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
    """Play a history in an overlay over `BASE`; pack it, unpack that, and pack it again."""
    rw = mount_upper(place)
    base_fds = unpack_all(place, [BASE])
    mount_overlay(base_fds, rw / "up", rw / "work", rw / "merged")
    os.chdir(rw / "merged")
    play(history)
    os.chdir("/")
    outcome = look(rw / "up", base_fds)
    (place / "again").mkdir()
    layer_fds = unpack_all(place / "again", [BASE, outcome.archive] if outcome.changes else [BASE])
    again = io.BytesIO()
    if outcome.changes:
        base_fd = mounts.overlay_view(base_fds)
        pack(Sides(upper_fd=layer_fds[0], base_fd=base_fd), again)
    return {
        "merged": snapshot(rw / "merged"),
        "layer": outcome.archive,
        "view": snapshot(mounts.overlay_view(layer_fds)),
        "again": again.getvalue(),
        "entries": outcome.packed.entries,
    }


def check(history: Sequence[tuple[Any, ...]]) -> tuple[list[bytes], Snapshot]:
    """Check all that needs no judge; return the layers and the tree that they must give."""
    with temporary_folder() as place:
        found = in_user_namespace(lambda: lived(place, history))
    assert as_mounted(found["view"]) == as_mounted(found["merged"])
    if not found["entries"]:
        return [BASE], found["view"]
    assert found["again"] == found["layer"]
    return [BASE, found["layer"]], found["view"]


def as_judged(tree: Snapshot) -> Snapshot:
    return tree if os.getuid() == 0 else without_owners(tree)


several = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@several
@given(operations)
def test_L70_history_gives_umoci_the_same_tree(history: list[tuple[Any, ...]]) -> None:
    layers, tree = check(history)

    with temporary_folder() as place:
        assert as_judged(umoci_tree(place, layers)) == tree


@needs("podman", "root")
@settings(several, max_examples=6)
@given(operations)
def test_L70_history_gives_podman_the_same_tree(history: list[tuple[Any, ...]]) -> None:
    layers, tree = check(history)

    theirs = podman_tree(layers, driver="vfs")

    assert {**theirs, b".": tree[b"."]} == tree  # it does not apply what is said about the root
