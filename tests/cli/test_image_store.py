"""`import`, `export-image`, `inspect`, `history`, `rm`, `gc --size`, `fsck`: the image store."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from features import needs
from foreign_images import Layout, digest_of, docker_archive, layer
from places import temporary_folder

if TYPE_CHECKING:
    from conftest import Call

LAYERS = [layer("a"), layer("b")]


@pytest.fixture
def layout(store_dir: Path, tmp_path: Path) -> Layout:
    made = Layout(tmp_path / "layout")
    history = [{"created_by": "base"}, {"created_by": "env", "empty_layer": True}, {}]
    made.add(LAYERS, config={"history": history, "created": "2001-01-01T00:00:00Z"})
    return made


def test_import_names_an_image(call: Call, layout: Layout) -> None:
    result = call("import", str(layout.path), "--tag", "app:1")

    digest = layout.rows[0]["digest"]
    assert (result.status, result.out) == (0, f"{digest}\n")
    assert result.err.splitlines() == [
        f"note: importing oci:{layout.path}: 2 layers",
        f"note: app:1: imported from oci:{layout.path}",
    ]
    row = next(row for row in json.loads(call("images", "--json").out) if row["name"] == "app:1")
    assert (row["digest"], row["layers"], row["kind"]) == (digest, 2, "tag")


@needs("userns")
def test_import_takes_a_plain_folder(call: Call, layout: Layout, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_text("x")

    refused = call("import", str(tmp_path / "tree"), "--tag", "tree")
    result = call("import", f"dir:{tmp_path}/tree", "--tag", "tree")

    assert refused.status == 1 and "dir:PATH" in refused.err
    assert result.status == 0
    assert len(json.loads(call("inspect", "tree", "--json").out)["layers"]) == 1


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["nowhere", "--tag", "x"], 3),
        (["nowhere"], 2),
        (["LAYOUT", "--tag", "oci:x"], 1),
        (["LAYOUT:other", "--tag", "x"], 3),
    ],
)
def test_import_fails_clearly(call: Call, layout: Layout, words: list[str], status: int) -> None:
    result = call("import", *(word.replace("LAYOUT", str(layout.path)) for word in words))

    assert result.status == status
    assert "Traceback" not in result.err


def test_progress_is_drawn_on_a_terminal(layout: Layout, tmp_path: Path) -> None:
    leader, terminal = pty.openpty()
    command = [sys.executable, "-m", "pytest_rootfs", "import", str(layout.path), "--tag", "app"]
    environ = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    subprocess.run(command, stderr=terminal, stdout=subprocess.PIPE, check=True, env=environ)
    os.close(terminal)

    shown = b""
    try:
        while part := os.read(leader, 4096):
            shown += part
    except OSError:  # EIO: nobody has the terminal open any more
        os.close(leader)

    text = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", shown.decode())
    for number, content in enumerate(LAYERS, 1):
        assert f"{number}/2 {digest_of(content)[:19]}" in text


def test_inspect_tells_what_an_image_is(call: Call, layout: Layout) -> None:
    call("import", str(layout.path), "--tag", "app")

    lines = call("inspect", "app").out.splitlines()
    details = json.loads(call("inspect", "app", "--json").out)

    words = [line.split() for line in lines]
    assert ["digest", layout.rows[0]["digest"]] in words
    assert ["env", "A=b"] in words and ["exposedports", "80/tcp"] in words
    assert any(re.match(rf"{digest_of(LAYERS[0])[:19]} .* gzip \d+ B", line) for line in lines)
    assert details["digest"] == layout.rows[0]["digest"]
    assert [each["diff_id"] for each in details["layers"]] == list(map(digest_of, LAYERS))
    assert details["config"]["ExposedPorts"] == {"80/tcp": {}}
    assert details["platform"] == {"os": "linux", "architecture": "amd64", "variant": None}


def test_history_begins_with_the_last_step(call: Call, layout: Layout) -> None:
    call("import", str(layout.path), "--tag", "app")

    rows = json.loads(call("history", "app", "--json").out)
    lines = call("history", "app").out.splitlines()

    assert [row["created_by"] for row in rows] == [None, "env", "base"]
    layers = [row["layer"] for row in rows]
    assert layers == [digest_of(LAYERS[1]), None, digest_of(LAYERS[0])]
    assert rows[1]["size"] is None and rows[2]["size"] == len(LAYERS[0])
    assert len(lines) == 4 and lines[-1].endswith("base")


@pytest.mark.parametrize("verb", ["inspect", "history"])
def test_unbuilt_image_is_not_found(call: Call, layout: Layout, verb: str) -> None:
    result = call(verb, "minimal")

    assert result.status == 3
    assert "pytest-rootfs build minimal" in result.err


@needs("userns")
@pytest.mark.parametrize("kind", ["oci", "docker", "dir"])
def test_export_is_read_back(call: Call, layout: Layout, tmp_path: Path, kind: str) -> None:
    call("import", str(layout.path), "--tag", "app")

    exported = call("export-image", "app", str(tmp_path / "out"), "--format", kind)
    call("rm", "app")
    again = call("import", str(tmp_path / "out"), "--tag", "again")

    assert (exported.status, exported.out, again.status) == (0, "", 0), exported.err + again.err
    assert exported.err.splitlines()[0] == "note: exporting app: 2 layers"
    same = again.out == f"{layout.rows[0]['digest']}\n"
    assert same == (kind != "docker")  # whose archives have no manifest


@needs("userns")
def test_export_goes_to_standard_output(call: Call, layout: Layout) -> None:
    call("import", str(layout.path), "--tag", "app")
    words = ["export-image", "app", "-", "--format", "docker"]

    done = subprocess.run(
        [sys.executable, "-m", "pytest_rootfs", *words], check=True, capture_output=True
    )

    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archived:
        assert "manifest.json" in archived.getnames()


def test_folder_is_not_for_standard_output(call: Call, layout: Layout) -> None:
    assert call("export-image", "scratch", "-", "--format", "dir").status == 2


@needs("podman", "root")
@pytest.mark.slow
def test_podman_output_is_imported(call: Call, layout: Layout, tmp_path: Path) -> None:
    call("import", str(layout.path), "--tag", "app")
    call("export-image", "app", str(tmp_path / "x.tar"))
    with temporary_folder("/tmp", prefix="p") as folder:  # its paths must be short
        podman = ["podman", f"--root={folder}/root", f"--runroot={folder}/run"]
        podman += [f"--tmpdir={folder}/tmp", "--storage-driver=vfs", "--events-backend=none"]
        for words in (
            ["load", "-q", "-i", str(tmp_path / "x.tar")],
            ["save", "-q", "-o", str(tmp_path / "y.tar"), "app"],
            ["rmi", "-a", "-f"],
        ):
            subprocess.run([*podman, *words], check=True, capture_output=True)

    result = call("import", str(tmp_path / "y.tar"), "--tag", "back")

    assert result.status == 0, result.err
    details = json.loads(call("inspect", "back", "--json").out)
    assert [each["diff_id"] for each in details["layers"]] == list(map(digest_of, LAYERS))


def test_rm_takes_the_name_of_an_image(call: Call, layout: Layout, store_dir: Path) -> None:
    call("import", str(layout.path), "--tag", "app")
    call("import", str(layout.path), "--tag", "other")

    result = call("rm", "app", "other")

    assert (result.status, result.out) == (0, "app\nother\n")
    assert json.loads((store_dir / "index.json").read_text())["manifests"] == []
    assert call("gc", "--all").status == 0
    assert list((store_dir / "blobs" / "sha256").iterdir()) == []
    assert call("rm", "app").status == 3


def test_gc_shrinks_the_store(call: Call, layout: Layout) -> None:
    call("import", str(layout.path), "--tag", "app")

    result = call("gc", "--size", "1K")

    assert result.status == 0
    assert "2 blobs" in result.out  # the uncompressed copies
    assert "are left: tags, kept failures and running sessions hold them" in result.err
    assert call("gc", "--size", "-1").status == 2


def test_fsck_tells_and_repairs(call: Call, layout: Layout, store_dir: Path) -> None:
    call("import", str(layout.path), "--tag", "app")
    sound = call("fsck")
    path = store_dir / "blobs" / "sha256" / digest_of(LAYERS[0]).partition(":")[2]
    path.chmod(0o644)
    path.write_bytes(b"x")

    damaged = call("fsck")
    as_json = call("fsck", "--json")
    repaired = call("fsck", "--repair")

    assert (sound.status, sound.out) == (0, "6 blobs, 0 unpacked layers: no problems\n")
    assert damaged.status == as_json.status == 1
    assert damaged.out.startswith(f"blobs/sha256/{path.name} is damaged: its content has")
    assert "fsck --repair" in damaged.err
    assert json.loads(as_json.out)["problems"][0]["repairable"] is True
    assert (repaired.status, path.exists()) == (0, False)
    assert call("fsck").status == 0


@needs("userns")
def test_docker_archive_is_run(call: Call, store_dir: Path, tmp_path: Path) -> None:
    path = docker_archive(tmp_path / "x.tar", LAYERS)

    result = call("run", f"docker-archive:{path}", "--", "/srv/a")

    assert result.status == 126
    assert "cannot be executed" in result.err
