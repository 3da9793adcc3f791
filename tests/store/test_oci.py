"""Images as documents, and as files that skopeo, umoci and podman read."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from archives import archive, file, folder, link
from features import needs
from judges import private_podman

from pytest_rootfs.errors import ImageError, LayerCorrupt
from pytest_rootfs.store import oci
from pytest_rootfs.store.exports import docker_name
from pytest_rootfs.store.store import Store

CONFIG = {"Env": ["PATH=/bin"], "User": "1000", "WorkingDir": "/app"}


@pytest.fixture
def image(store: Store) -> str:
    """Store an image of two layers, the second of which deletes a file of the first."""
    contents = [
        archive(folder("."), folder("etc"), file("etc/a", b"a"), file("etc/b", b"b" * 5000)),
        archive(folder("."), folder("etc"), file("etc/.wh.a", mode=0), link("etc/c", "b")),
    ]
    layers = [store.blobs.put(content, oci.LAYER_TYPE) for content in contents]
    history = [
        oci.history_entry("one"),
        oci.history_entry("two"),
        oci.history_entry("env", empty_layer=True),
    ]
    return oci.write_image(store, layers=layers, config=CONFIG, history=history).digest


def run(*argv: object) -> str:
    command = [str(each) for each in argv]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_image_reads_back(store: Store, image: str) -> None:
    found = oci.read_image(store, image)

    assert found.config["config"] == CONFIG
    assert found.config["rootfs"]["diff_ids"] == list(found.diff_ids)
    assert [layer.digest for layer in found.layers] == list(found.diff_ids)
    assert len(found.config["history"]) == 3


def test_same_image_has_same_digest(store: Store, image: str) -> None:
    found = oci.read_image(store, image)

    again = oci.write_image(
        store,
        layers=found.layers,
        config=dict(reversed(CONFIG.items())),
        history=found.config["history"],
    )

    assert again.digest == image


@pytest.mark.parametrize("kind", ["oci", "docker", "dir"])
def test_export_is_reproducible(store: Store, image: str, tmp_path: Path, kind: oci.Format) -> None:
    for name in ("one", "two"):
        oci.export(store, image, tmp_path / name, format=kind, name="app")

    assert _content(tmp_path / "one") == _content(tmp_path / "two")
    assert sorted(os.listdir(tmp_path)) == ["one", "store", "two"]


def _content(path: Path) -> object:
    if path.is_file():
        return path.read_bytes()
    return {
        str(each.relative_to(path)): each.is_file() and each.read_bytes()
        for each in path.rglob("*")
    }


def test_docker_archive_lists_its_parts(store: Store, image: str, tmp_path: Path) -> None:
    oci.export(store, image, tmp_path / "x.tar", format="docker", name="app")

    with tarfile.open(tmp_path / "x.tar") as archived:
        manifest = json.load(archived.extractfile("manifest.json") or io.BytesIO())
        names = archived.getnames()

    assert manifest[0]["RepoTags"] == ["app:latest"]
    assert {*manifest[0]["Layers"], manifest[0]["Config"], "manifest.json"} == set(names)


def test_damaged_layer_stops_export(store: Store, image: str, tmp_path: Path) -> None:
    layer = store.blobs.path(oci.read_image(store, image).layers[0].digest)
    os.chmod(layer, 0o644)
    layer.write_bytes(b"x" * layer.stat().st_size)

    with pytest.raises(LayerCorrupt, match="is damaged"):
        oci.export(store, image, tmp_path / "x.tar")

    assert os.listdir(tmp_path) == ["store"]


def test_unwritable_target_is_told(store: Store, image: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"cannot export image .* No such file"):
        oci.export(store, image, tmp_path / "missing" / "x.tar")


def test_pipe_is_not_replaced(store: Store, image: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(ImageError, match="it is a device, a pipe or a socket"):
        oci.export(store, image, tmp_path / "pipe")

    assert (tmp_path / "pipe").is_fifo()


def test_folder_with_content_is_not_replaced(store: Store, image: str, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()

    with pytest.raises(ImageError, match="cannot export image"):
        oci.export(store, image, tmp_path / "full", format="dir")

    assert os.listdir(tmp_path / "full") == ["x"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("app", "app:latest"),
        ("App Name:1.0", "app-name:1.0"),
        ("localhost:5000/a/b:x", "localhost:5000/a/b:x"),
        ("a__b--c", "a_b-c:latest"),
        ("tests/test_x.py::test_y", "tests/test_x.py:latest"),
        (":", "image:latest"),
    ],
)
def test_name_fits_docker(name: str, expected: str) -> None:
    assert docker_name(name) == expected


@needs("skopeo")
@pytest.mark.parametrize(
    ("kind", "transport"), [("oci", "oci-archive"), ("docker", "docker-archive"), ("dir", "oci")]
)
def test_skopeo_reads_export(
    store: Store, image: str, tmp_path: Path, kind: oci.Format, transport: str
) -> None:
    oci.export(store, image, tmp_path / "x", format=kind, name="app")

    shown = json.loads(run("skopeo", "inspect", "--config", f"{transport}:{tmp_path / 'x'}"))
    run("skopeo", "copy", f"{transport}:{tmp_path / 'x'}", f"dir:{tmp_path / 'copy'}")

    found = oci.read_image(store, image)
    assert shown["rootfs"]["diff_ids"] == list(found.diff_ids)
    assert shown["config"]["User"] == "1000"


@needs("skopeo")
def test_skopeo_reads_store_itself(store: Store, image: str) -> None:
    store.refs.set("app/one:1", image)

    shown = json.loads(run("skopeo", "inspect", f"oci:{store.root}:app/one:1"))

    assert shown["Digest"] == image


@needs("umoci")
def test_umoci_unpacks_export(store: Store, image: str, tmp_path: Path) -> None:
    oci.export(store, image, tmp_path / "x", format="dir", name="app")

    run("umoci", "unpack", "--rootless", "--image", f"{tmp_path / 'x'}:app", tmp_path / "bundle")

    assert sorted(os.listdir(tmp_path / "bundle" / "rootfs" / "etc")) == ["b", "c"]


@needs("podman", "root")
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["oci", "docker"])
def test_podman_loads_export(store: Store, image: str, tmp_path: Path, kind: oci.Format) -> None:
    oci.export(store, image, tmp_path / "x.tar", format=kind, name="localhost/app:1")

    with private_podman() as podman:
        loaded = run(*podman, "load", "-i", tmp_path / "x.tar")
        shown = json.loads(run(*podman, "image", "inspect", "localhost/app:1"))
        run(*podman, "rmi", "-a", "-f")

    found = oci.read_image(store, image)
    assert "localhost/app:1" in loaded
    assert shown[0]["RootFS"]["Layers"] == list(found.diff_ids)
