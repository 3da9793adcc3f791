"""`ContainerPath.glob` finds what `pathlib.Path.glob` finds in the same tree."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_rootfs.engine import Engine
from pytest_rootfs.runtime.path import ContainerPath

FILES = ["a.py", "b.txt", ".hidden", "[x]", "d/a.py", "d/e/a.py", "d/e/f/c.txt", "d/.h/a.py"]
PATTERNS = [
    "*", "*.py", "a.py", "nonesuch", "d/*", "d/*.py", "*/a.py", "*/*", "**/*", "**/*.py", "**/a.py",
    "d/**/*.py", "d/**/a.py", "**/e/*", "**/e/**/*.txt", "?.py", "[ab].*", "[!a].*", "[[]x]",
    "link/*", "d/e/../*", "*/e/f/c.txt", ".*", "d/.h/*", "loop/*", "**/**/a.py", "b.txt/*",
]  # fmt: skip


@pytest.fixture(scope="module")
def trees(
    engine: Engine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ContainerPath, Path]]:
    """Give one tree twice: in a container without a program, and its copy on the host."""
    host = tmp_path_factory.mktemp("trees") / "copy"
    with engine.start("scratch") as container:
        top = container.path("/top")
        for name in FILES:
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            (top / name).touch()
        (top / "link").symlink_to("d")
        (top / "loop").symlink_to("loop")
        (top / "dangling").symlink_to("nonesuch")
        container.copy_out("/top", host)
        yield top, host


def below(paths: Iterator[ContainerPath] | Iterator[Path], top: object) -> list[str]:
    return sorted(str(path).removeprefix(str(top)) for path in paths)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_glob_equals_pathlib(trees: tuple[ContainerPath, Path], pattern: str) -> None:
    inside, outside = trees

    assert below(inside.glob(pattern), inside) == below(outside.glob(pattern), outside)


@pytest.mark.parametrize("pattern", ["*", "*.py", "e/*", "a.py", "nonesuch"])
def test_rglob_equals_pathlib(trees: tuple[ContainerPath, Path], pattern: str) -> None:
    inside, outside = trees

    assert below(inside.rglob(pattern), inside) == below(outside.rglob(pattern), outside)


def test_globs_pass_over_what_may_not_be_looked_at(engine: Engine) -> None:
    with engine.start("minimal") as container:  # its root may not search /proc/tty/driver
        folder = container.path("/proc/tty")

        assert folder / "driver" in folder.iterdir()
        assert [*folder.rglob("serial")] == [*folder.glob("**/serial")] == []
        assert [*folder.glob("*/serial")] == []


def test_iterdir_equals_pathlib(trees: tuple[ContainerPath, Path]) -> None:
    inside, outside = trees

    assert below(inside.iterdir(), inside) == below(outside.iterdir(), outside)


@pytest.mark.parametrize("pattern", ["", "/etc/*"])
def test_bad_pattern_is_refused(trees: tuple[ContainerPath, Path], pattern: str) -> None:
    with pytest.raises((ValueError, NotImplementedError)):
        list(trees[1].glob(pattern))
    with pytest.raises(ValueError, match="pattern"):
        list(trees[0].glob(pattern))


def test_glob_of_a_missing_folder_is_empty(trees: tuple[ContainerPath, Path]) -> None:
    assert list((trees[0] / "nonesuch").glob("*")) == []


def test_iterdir_of_a_missing_folder_raises(trees: tuple[ContainerPath, Path]) -> None:
    with pytest.raises(FileNotFoundError):
        list((trees[0] / "nonesuch").iterdir())


def test_unreadable_folders_are_passed_over(trees: tuple[ContainerPath, Path]) -> None:
    root = trees[0].parent

    found = {str(path) for path in (root / "proc/1").rglob("s*")}

    assert "/proc/1/status" in found
