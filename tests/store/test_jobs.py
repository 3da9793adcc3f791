"""The jobs as the warden runs them: JSON and descriptors in, JSON out."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from archives import archive, file, folder, link, names
from features import needs
from namespaced import in_user_namespace
from overlays import FLAGS, unpack_all

from pytest_rootfs.errors import ArchiveRejected
from pytest_rootfs.store import jobs

pytestmark = needs("userns")

BASE = archive(
    folder("."),
    folder("etc"),
    file("etc/conf", b"base\n"),
    link("etc/link", "/etc/conf"),
    link("loop", "loop"),
    link("up", "../../../etc/conf"),
    folder("many"),
    *(file(f"many/{number}") for number in range(3)),
)
TOP = archive(folder("."), folder("etc"), file("etc/conf", b"top\n"), file(".wh.many", mode=0))


def test_unpacking_cannot_leave_its_target(tmp_path: Path) -> None:
    (tmp_path / "layer.tar").write_bytes(BASE)
    (tmp_path / "target").mkdir()

    def job() -> dict[str, Any]:
        tar_fd = os.open(tmp_path / "layer.tar", os.O_RDONLY)
        target_fd = os.open(tmp_path / "target", FLAGS)
        result = jobs.unpack_layer({"squash_ids": True}, [tar_fd, target_fd])
        return {**result, "root": sorted(os.listdir("/"))}

    result = json.loads(json.dumps(in_user_namespace(job)))

    assert result["root"] == ["etc", "loop", "many", "up"]
    assert result["diff_id"] == "sha256:" + hashlib.sha256(BASE).hexdigest()
    assert (result["entries"], result["has_root"], result["degraded"]) == (10, True, [])
    assert (tmp_path / "target/etc/conf").read_bytes() == b"base\n"


def test_refusal_passes_through(tmp_path: Path) -> None:
    (tmp_path / "layer.tar").write_bytes(b"x" * 512)
    (tmp_path / "target").mkdir()

    def job() -> object:
        tar_fd = os.open(tmp_path / "layer.tar", os.O_RDONLY)
        return jobs.unpack_layer({}, [tar_fd, os.open(tmp_path / "target", FLAGS)])

    with pytest.raises(ArchiveRejected, match="entry 1"):
        in_user_namespace(job)


def upper_of(tmp_path: Path) -> int:
    """Return a raw upper folder with one new file, one change and one hidden file."""
    (tmp_path / "upper" / "etc").mkdir(parents=True)
    (tmp_path / "upper" / "etc" / "conf").write_bytes(b"changed\n")
    (tmp_path / "upper" / "etc" / "hosts").touch()
    (tmp_path / "upper" / "new").touch()
    return os.open(tmp_path / "upper", FLAGS)


def test_changes_come_as_lines(tmp_path: Path) -> None:
    def job() -> object:
        out_fd = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
        layer_fds = unpack_all(tmp_path, [BASE, TOP])
        fds = [out_fd, upper_of(tmp_path), *layer_fds]
        return jobs.diff_layer({"hidden": ["/etc/hosts"]}, fds)

    answer = in_user_namespace(job)

    lines = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert answer == {"changes": 2}
    assert {line["path"]: line["kind"] for line in lines} == {
        "/etc/conf": "modified",
        "/new": "added",
    }


@pytest.mark.parametrize("contents", [[], [BASE], [BASE, TOP]], ids=len)
def test_layer_is_packed_over_any_number_of_layers(tmp_path: Path, contents: list[bytes]) -> None:
    def job() -> dict[str, Any]:
        out_fd = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
        fds = [out_fd, upper_of(tmp_path), *unpack_all(tmp_path, contents)]
        return jobs.pack_layer({"hidden": ["/etc/hosts"], "clamp_mtime": 9}, fds)

    answer = json.loads(json.dumps(in_user_namespace(job)))

    packed = (tmp_path / "out").read_bytes()
    assert names(packed) == ["./", "etc/", "etc/conf", "new"]
    assert answer == {
        "diff_id": "sha256:" + hashlib.sha256(packed).hexdigest(),
        "size": len(packed),
        "entries": 4,
        "skipped": [],
    }


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/etc/conf", ("/etc/conf", "file", b"top\n")),
        ("etc//./conf", ("/etc/conf", "file", b"top\n")),
        ("/etc/link", ("/etc/conf", "file", b"top\n")),
        ("/up", ("/etc/conf", "file", b"top\n")),
        ("/../../etc/../etc/conf", ("/etc/conf", "file", b"top\n")),
        ("/etc/conf/", ("/etc/conf", "file", b"top\n")),
        ("/etc/conf/x", (None, None, b"")),
        ("/etc/conf/..", (None, None, b"")),
        ("/missing", (None, None, b"")),
        ("/loop", (None, None, b"")),
        ("/many", (None, None, b"")),
        ("/many/1", (None, None, b"")),
    ],
)
def test_view_resolves_links_inside(
    tmp_path: Path, path: str, expected: tuple[object, ...]
) -> None:
    def job() -> dict[str, Any]:
        out_fd = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
        return jobs.open_view(
            {"path": path, "max_bytes": 99}, [out_fd, *unpack_all(tmp_path, [BASE, TOP])]
        )

    answer = in_user_namespace(job)

    content = (tmp_path / "out").read_bytes()
    assert (answer.get("path"), answer["type"], content) == expected


def test_view_lists_a_folder(tmp_path: Path) -> None:
    def job() -> dict[str, Any]:
        out_fd = os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT)
        return jobs.open_view(
            {"path": "/", "max_bytes": 0}, [out_fd, *unpack_all(tmp_path, [BASE, TOP])]
        )

    answer = in_user_namespace(job)

    lines = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert (answer["path"], answer["type"], answer["mode"]) == ("/", "dir", 0o755)
    assert [(line["name"], line["type"], line["target"]) for line in lines] == [
        ("etc", "dir", None),
        ("loop", "symlink", "loop"),
        ("up", "symlink", "../../../etc/conf"),
    ]


@pytest.mark.slow
def test_tree_is_removed_whatever_it_holds(tmp_path: Path) -> None:
    def job() -> object:
        (tmp_path / "tree").mkdir()
        home = os.getcwd()
        os.chdir(tmp_path / "tree")
        for number in range(1500):
            os.mkdir("d")
            os.mkdir(f"e{number}", 0o000)
            os.symlink("/etc", "link")
            os.chdir("d")
        os.chdir(home)
        parent_fd = os.open(tmp_path, FLAGS)
        return [jobs.remove_tree({"name": "tree"}, [parent_fd]) for _ in range(2)]

    (first, again) = in_user_namespace(job)

    assert first["freed_bytes"] > 0
    assert again == {"freed_bytes": 0}
    assert os.listdir(tmp_path) == []
    assert os.path.exists("/etc")
