"""Opening inside a root folder: the walk keeps the promises of openat2(2), case by case."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pytest_rootfs.kernel import inside, syscalls

Open = Callable[[str, int], int]

PATHS = [
    *("/", "", ".", "..", "/..", "a", "/a", "a/", "a/b", "a/b/", "a//b", "a/./b", "a/../a/b"),
    *("../../../outside", "/../outside", "missing", "missing/", "missing/a", "a/file", "a/file/"),
    *("a/file/..", "to-a", "to-a/", "to-a/file", "to-file", "to-file/", "up", "up/a", "absolute"),
    *("absolute/file", "dangling", "dangling/", "loop", "loop/a", "chain", "far", "x" * 300),
    *("x/" * 3000, "to-a/../a", "up/up/up/a/file", "a/back/a/back/a/file", "fifo", "fifo/"),
]
FLAGS = {
    "path": os.O_PATH,
    "link": os.O_PATH | os.O_NOFOLLOW,
    "folder": os.O_PATH | os.O_DIRECTORY,
    "folder itself": os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW,
    "read": os.O_RDONLY | os.O_NONBLOCK,
    "read itself": os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW,
    "create": os.O_RDWR | os.O_CREAT | os.O_NONBLOCK,
    "create new": os.O_RDWR | os.O_CREAT | os.O_EXCL,
}


def fill(root: Path) -> Path:
    """Make a root with links of every kind, and a file outside of it that must not be found."""
    (root.parent / "outside").write_text("outside")
    (root / "a/b").mkdir(parents=True)
    (root / "a/file").write_text("inside")
    os.mkfifo(root / "fifo")
    links = {
        "to-a": "a",
        "to-file": "a/file",
        "up": "../../..",
        "absolute": "/a",
        "dangling": "made",
        "loop": "loop",
        "chain": "to-chain",
        "to-chain": "./up/to-a/../to-file",
        "far": f"{root.parent}/outside",
        "a/back": "..",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    return root


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "one/two/root"
    root.mkdir(parents=True)
    monkeypatch.chdir(fill(root))
    return root


def by_kernel(path: str, flags: int) -> int:
    resolve = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
    mode = 0o600 if flags & os.O_CREAT else 0
    return syscalls.openat2(syscalls.AT_FDCWD, path, flags, mode=mode, resolve=resolve)


def by_walk(path: str, flags: int) -> int:
    return inside.walk_inside(path, flags, 0o600)


def outcome(open_it: Open, path: str, flags: int) -> tuple[str, int]:
    """Open and tell what was found; a file that this has made, an empty one, is removed again."""
    try:
        fd = open_it(path, flags)
    except OSError as error:
        return errno.errorcode[error.errno or 0], 0
    try:
        status = os.fstat(fd)
        if flags & os.O_CREAT and stat.S_ISREG(status.st_mode) and status.st_size == 0:
            os.unlink(os.readlink(f"/proc/self/fd/{fd}"))
        return f"{status.st_mode:o}", 0 if flags & os.O_CREAT else status.st_ino
    finally:
        os.close(fd)


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
def test_walk_finds_what_the_kernel_finds(flags: int) -> None:
    expected = {path: outcome(by_kernel, path, flags) for path in PATHS}

    assert {path: outcome(by_walk, path, flags) for path in PATHS} == expected


PARTS = [
    "a",
    "b",
    "file",
    "to-a",
    "to-file",
    "up",
    "absolute",
    "back",
    "chain",
    "",
    ".",
    "..",
    "no",
]


@pytest.mark.slow
@given(st.lists(st.sampled_from(PARTS), min_size=1, max_size=8), st.sampled_from([*FLAGS.values()]))
@example(parts=["a", "", ""], flags=os.O_RDWR | os.O_CREAT | os.O_EXCL)
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_path_leads_to_the_same(root: Path, parts: list[str], flags: int) -> None:
    path = "/".join(parts)

    assert outcome(by_walk, path, flags) == outcome(by_kernel, path, flags)


@pytest.mark.parametrize("open_it", [by_kernel, by_walk])
@pytest.mark.parametrize(
    "path",
    [
        "self/root",
        "self/root/etc",
        "self/cwd/x",
        "self/exe",
        "self/fd/0",
        "self/ns/mnt",
        "self/task",
    ],
)
def test_magic_link_is_refused(monkeypatch: pytest.MonkeyPatch, open_it: Open, path: str) -> None:
    monkeypatch.chdir("/proc")

    found = outcome(open_it, path, os.O_PATH)

    assert found[0] == ("40555" if path == "self/task" else "ELOOP")


@pytest.mark.parametrize("open_it", [by_kernel, by_walk])
def test_text_links_of_proc_are_followed(monkeypatch: pytest.MonkeyPatch, open_it: Open) -> None:
    monkeypatch.chdir("/proc")

    fd = open_it("mounts", os.O_RDONLY)

    assert os.read(fd, 4096).splitlines()[0] == Path("mounts").read_bytes().splitlines()[0]
    os.close(fd)


@pytest.mark.usefixtures("root")
def test_walk_leaves_no_descriptor() -> None:
    before = len(os.listdir("/proc/self/fd"))

    for path in PATHS:
        outcome(by_walk, path, os.O_PATH)

    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.usefixtures("root")
def test_walk_takes_no_link_put_in_place_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    real_open = os.open

    def exchange_first(path: str, flags: int, *args: int, dir_fd: int | None = None) -> int:
        if path == "file" and not flags & os.O_PATH:
            os.unlink(path, dir_fd=dir_fd)
            os.symlink("/../outside", path, dir_fd=dir_fd)
        return real_open(path, flags, *args, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", exchange_first)

    with pytest.raises(OSError, match="a/file") as refusal:
        by_walk("a/file", os.O_RDONLY)

    assert refusal.value.errno == errno.ELOOP
