"""Where an image lies: what a reference or a path means, and what is there."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from features import needs
from foreign_images import (
    Layout,
    docker_archive,
    imported,
    layer,
    tar_of,
)

from pytest_rootfs.errors import ArchiveRejected, ImageError, ImageNotFound
from pytest_rootfs.store.sources import find_source
from pytest_rootfs.store.store import Store

LAYERS = [layer("a"), layer("b")]


def test_colon_in_path_is_no_name(store: Store, tmp_path: Path) -> None:
    row = Layout(tmp_path / "a:b@c").add(LAYERS, name="d")

    assert imported(store, f"oci:{tmp_path}/a:b@c").digest == row["digest"]
    assert imported(store, f"oci:{tmp_path}/a:b@c:d").digest == row["digest"]


@pytest.mark.parametrize(
    ("reference", "error", "rule"),
    [
        ("oci:none:tag", ImageNotFound, r"cannot read .*/none: No such file"),
        ("oci:x.tar", ArchiveRejected, "is a file"),
        ("oci-archive:empty", ArchiveRejected, "is a folder"),
        ("oci:empty", ArchiveRejected, "it has no oci-layout"),
        ("oci-archive:x.tar", ArchiveRejected, "it has no oci-layout"),
        ("docker-archive:text", ArchiveRejected, "cannot be read as an archive"),
        ("oci:/dev/null", ArchiveRejected, "is neither a file nor a folder"),
    ],
)
def test_wrong_place_is_told(
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    reference: str,
    error: type[ImageError],
    rule: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    docker_archive(tmp_path / "x.tar", LAYERS)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("no archive")

    with pytest.raises(error, match=rule):
        imported(store, reference)


def test_future_layout_version_is_refused(store: Store, layout: Layout) -> None:
    (layout.path / "oci-layout").write_text('{"imageLayoutVersion": "2.0.0"}')

    with pytest.raises(ArchiveRejected, match=r"of version '2\.0\.0'"):
        imported(store, f"oci:{layout.path}")


@pytest.mark.parametrize("kind", ["layout", "layout.tar", "docker.tar", "skopeo"])
def test_format_is_found_by_looking(layout: Layout, tmp_path: Path, kind: str) -> None:
    layout.add(LAYERS)
    tar_of(layout.path, tmp_path / "layout.tar")
    docker_archive(tmp_path / "docker.tar", LAYERS)
    (tmp_path / "skopeo").mkdir()
    (tmp_path / "skopeo" / "manifest.json").touch()

    found = find_source(f"{tmp_path / kind}:name")

    schemes = {"layout": "oci", "layout.tar": "oci-archive", "skopeo": "dir"}
    assert (found.scheme, found.wanted) == (schemes.get(kind, "docker-archive"), "name")
    assert found.path == tmp_path / kind


def test_folder_of_files_holds_no_image(tmp_path: Path) -> None:
    with pytest.raises(ArchiveRejected, match="holds no image") as refused:
        find_source(str(tmp_path))

    assert "dir:PATH" in refused.value.hint


@needs("skopeo")
@pytest.mark.slow
@pytest.mark.parametrize(
    "target", ["dir:{0}", "oci:{0}:x", "oci-archive:{0}:x", "docker-archive:{0}:x:1"]
)
@pytest.mark.parametrize("compression", ["gzip", "zstd", ""])
def test_skopeo_output_is_read(
    store: Store, layout: Layout, tmp_path: Path, target: str, compression: str
) -> None:
    layout.add(LAYERS, name="x")
    target = target.format(tmp_path / "copy")
    options = [f"--dest-compress-format={compression}"] if compression else ["--dest-decompress"]
    source = f"oci:{layout.path}:x"
    subprocess.run(
        ["skopeo", "--insecure-policy", "copy", "-q", *options, source, target], check=True
    )

    image = imported(store, target)

    assert [store.blobs.read_bytes(each) for each in image.diff_ids] == LAYERS
