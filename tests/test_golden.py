"""Golden trees: one line a change, compared or written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_rootfs import golden
from pytest_rootfs.changeset import Change
from pytest_rootfs.golden import GoldenFolder

AFTER = {"mode": 0o644, "uid": 0, "gid": 5, "size": 1, "mtime_ns": 7, "target": None}


def test_line_tells_all_but_the_time() -> None:
    change = Change(path="/a b\n", kind="added", type="file", after=AFTER)

    assert golden.line(change, "12ab") == r"added    file    0644 0:5 /a\x20b\n sha256:12ab"


def test_line_of_a_link_has_its_target() -> None:
    after = {**AFTER, "mode": 0o777, "target": "../x -> y"}
    change = Change(path="/l", kind="modified", type="symlink", after=after)

    assert golden.line(change, None) == r"modified symlink 0777 0:5 /l -> ../x\x20->\x20y"


def test_line_of_a_deletion_is_short() -> None:
    change = Change(path="/d", kind="deleted", type="dir", before=AFTER)

    assert golden.line(change, None) == "deleted  dir     - - /d"


def test_missing_file_names_the_option(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"no golden file .*/x\.txt\nwrite it with: pytest --"):
        golden.match(GoldenFolder(path=tmp_path, updates=False), "x", [])


def test_written_file_matches(tmp_path: Path) -> None:
    folder = tmp_path / "golden" / "test_x"
    umask = os.umask(0o022)

    golden.match(GoldenFolder(path=folder, updates=True), "x", ["a", "b"])
    golden.match(GoldenFolder(path=folder, updates=False), "x", ["a", "b"])

    os.umask(umask)
    assert [each.name for each in folder.iterdir()] == ["x.txt"]
    assert (folder / "x.txt").stat().st_mode & 0o777 == 0o644


def test_difference_is_shown_by_line(tmp_path: Path) -> None:
    golden.match(GoldenFolder(path=tmp_path, updates=True), "x", ["a", "b"])

    with pytest.raises(AssertionError) as caught:
        golden.match(GoldenFolder(path=tmp_path, updates=False), "x", ["a", "c"])

    assert str(caught.value).splitlines()[1:] == [
        "--- golden",
        "+++ container",
        "-b",
        "+c",
        "if they are right, write them with: pytest --rootfs-update-golden",
    ]


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "a\\b", ".x", "a\0", "a\n", "x" * 201]
)
def test_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="is not the name of a golden file"):
        golden.match(GoldenFolder(path=tmp_path, updates=True), name, [])

    assert list(tmp_path.iterdir()) == []
