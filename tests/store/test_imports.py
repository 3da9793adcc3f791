"""Foreign images come into the store as they are, verified, or not at all."""

from __future__ import annotations

import base64
import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from features import needs
from foreign_images import (
    CONFIG,
    INDEX,
    LAYER,
    MANIFEST,
    Layout,
    digest_of,
    docker_archive,
    layer,
    tar_of,
)

from pytest_rootfs.errors import ArchiveRejected, ImageError, ImageNotFound, LayerCorrupt
from pytest_rootfs.store import imports, oci, platforms
from pytest_rootfs.store.imports import find_imported, import_image
from pytest_rootfs.store.sources import find_source, parse_source
from pytest_rootfs.store.store import Store

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LAYERS = [layer("a"), layer("b")]
HERE = platforms.platform()
ELSEWHERE = {"architecture": "s390x", "os": "linux"}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


def imported(store: Store, reference: str) -> oci.StoredImage:
    return oci.read_image(store, import_image(store, parse_source(reference)).digest)


def stored(store: Store) -> set[str]:
    return set(os.listdir(store.root / "blobs" / "sha256"))


def test_blobs_are_kept_as_they_are(store: Store, layout: Layout) -> None:
    row = layout.add(LAYERS)

    image = imported(store, f"oci:{layout.path}")

    assert image.digest == row["digest"]
    assert store.blobs.read_bytes(row["digest"]) == layout.file(row["digest"]).read_bytes()
    for blob, content in zip(image.layers, LAYERS, strict=True):
        assert store.blobs.read_bytes(blob.digest) == gzip.compress(content, mtime=0)
        assert store.blobs.read_bytes(digest_of(content)) == content


@pytest.mark.parametrize(
    "compress",
    [
        bytes,
        gzip.compress,
        zstd.compress,
        lambda content: gzip.compress(content[:700]) + gzip.compress(content[700:]),
        lambda content: zstd.compress(content[:700]) + zstd.compress(content[700:]),
    ],
    ids=["plain", "gzip", "zstd", "members", "frames"],
)
def test_layer_is_read_however_compressed(
    store: Store, layout: Layout, compress: Callable[[bytes], bytes]
) -> None:
    blobs = [layout.blob(compress(content), LAYER) for content in LAYERS]
    layout.add(LAYERS, blobs=blobs)

    image = imported(store, f"oci:{layout.path}")

    assert [store.blobs.read_bytes(each) for each in image.diff_ids] == LAYERS


def test_same_layer_twice_is_one_blob(store: Store, layout: Layout) -> None:
    layout.add([LAYERS[0], LAYERS[0]])

    image = imported(store, f"oci:{layout.path}")

    assert image.diff_ids == (digest_of(LAYERS[0]),) * 2


@pytest.mark.parametrize("suffix", [":one", ":two", "@DIGEST"])
def test_name_in_layout_is_found(store: Store, layout: Layout, suffix: str) -> None:
    rows = {":one": layout.add(LAYERS[:1], name="one"), ":two": layout.add(LAYERS, name="two")}
    wanted = rows.get(suffix, rows[":one"])["digest"]

    image = imported(store, f"oci:{layout.path}{suffix.replace('DIGEST', wanted)}")

    assert image.digest == wanted


def test_several_images_need_a_name(store: Store, layout: Layout) -> None:
    layout.add(LAYERS[:1], name="one")
    layout.add(LAYERS, name="two")

    with pytest.raises(ImageError, match="has 2 images that could be meant") as refused:
        imported(store, f"oci:{layout.path}")
    with pytest.raises(ImageNotFound, match="has no image three") as missing:
        imported(store, f"oci:{layout.path}:three")

    assert refused.value.detail == missing.value.detail == "it has one, two"


def test_two_names_of_one_image_are_one(store: Store, layout: Layout) -> None:
    row = layout.add(LAYERS, name="one")
    layout.add(LAYERS, name="two")

    assert imported(store, f"oci:{layout.path}").digest == row["digest"]


def test_colon_in_path_is_no_name(store: Store, tmp_path: Path) -> None:
    row = Layout(tmp_path / "a:b@c").add(LAYERS, name="d")

    assert imported(store, f"oci:{tmp_path}/a:b@c").digest == row["digest"]
    assert imported(store, f"oci:{tmp_path}/a:b@c:d").digest == row["digest"]


def test_own_platform_is_chosen(store: Store, layout: Layout) -> None:
    inner = [
        layout.add(LAYERS[:1], platform=ELSEWHERE),
        layout.add(LAYERS, platform=HERE),
        layout.add([], platform={"architecture": "unknown", "os": "unknown"}),
    ]
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": inner}
    layout.rows = [layout.document(index, INDEX)]
    layout.write_index()

    assert imported(store, f"oci:{layout.path}").digest == inner[1]["digest"]


def test_other_platforms_are_listed(store: Store, layout: Layout) -> None:
    layout.add(LAYERS, platform={**ELSEWHERE, "variant": "v9"})

    with pytest.raises(ImageNotFound, match=r"has no image for linux/") as refused:
        imported(store, f"oci:{layout.path}")

    assert refused.value.detail == "it has linux/s390x/v9"


@pytest.mark.parametrize(
    ("machine", "variant", "expected"),
    [
        ("armv7l", "v7", 9),
        ("armv7l", "", 8),
        ("armv7l", "v6", 6),
        ("armv6l", "v7", 0),
        ("aarch64", "v8", 9),
        ("aarch64", "v9", 0),
        ("x86_64", "", 9),
        ("x86_64", "v3", 0),
    ],
)
def test_variant_must_run_here(
    monkeypatch: pytest.MonkeyPatch, machine: str, variant: str, expected: int
) -> None:
    found = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((*found[:4], machine)))
    offered = {**platforms.platform(), "variant": variant}

    assert platforms.fitness(offered) == expected


def test_H48_indexes_end_somewhere(store: Store, layout: Layout) -> None:
    row = layout.add(LAYERS)
    for _ in range(4):
        row = layout.document({"schemaVersion": 2, "mediaType": INDEX, "manifests": [row]}, INDEX)
    layout.rows = [row]
    layout.write_index()

    with pytest.raises(ArchiveRejected, match="more than 3 deep"):
        imported(store, f"oci:{layout.path}")


@pytest.mark.parametrize(
    ("index", "rule"),
    [
        ({"layers": []}, "two kinds of document"),
        ({"Manifests": []}, "two kinds of document"),
        ({"schemaVersion": 1}, "the schema version 1"),
        ({"manifests": {}}, "lists no manifests"),
        ({"manifests": [{}] * 1001}, "lists 1001 manifests"),
        ({"manifests": [{"digest": "sha256:../x", "size": 1, "mediaType": "x"}]}, "the digest"),
    ],
)
def test_odd_index_is_refused(
    store: Store, layout: Layout, index: dict[str, object], rule: str
) -> None:
    layout.write_index(**index)

    with pytest.raises(ArchiveRejected, match=rule):
        imported(store, f"oci:{layout.path}")


@pytest.mark.parametrize(
    ("manifest", "rule"),
    [
        ({"mediaType": "application/vnd.docker.distribution.manifest.v2+json"}, "was announced as"),
        ({"config": {"digest": "sha256:" + "1" * 64, "size": 2, "mediaType": "x"}}, "of no image"),
        ({"schemaVersion": 1}, "schema version 1"),
    ],
)
def test_odd_manifest_is_refused(
    store: Store, layout: Layout, manifest: dict[str, object], rule: str
) -> None:
    layout.add(LAYERS, manifest=manifest)

    with pytest.raises(ArchiveRejected, match=rule):
        imported(store, f"oci:{layout.path}")


def test_unknown_layer_type_is_refused(store: Store, layout: Layout) -> None:
    blob = layout.blob(LAYERS[0], f"{LAYER}+encrypted")
    layout.add(LAYERS[:1], blobs=[blob])

    with pytest.raises(ArchiveRejected, match=r"of an unknown kind: .*encrypted"):
        imported(store, f"oci:{layout.path}")


@pytest.mark.parametrize("data", ["QQ==", "not base64", 7])
def test_embedded_data_must_match(store: Store, layout: Layout, data: object) -> None:
    row = layout.add(LAYERS)
    row["data"] = data
    layout.write_index()

    with pytest.raises(ArchiveRejected, match="whose data is not sha256:"):
        imported(store, f"oci:{layout.path}")


def test_right_embedded_data_is_accepted(store: Store, layout: Layout) -> None:
    row = layout.add(LAYERS)
    row["data"] = base64.b64encode(layout.file(row["digest"]).read_bytes()).decode()
    layout.write_index()

    assert imported(store, f"oci:{layout.path}").digest == row["digest"]


def damage(path: Path) -> None:
    """Flip a bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("part", ["manifest", "config", "layer"])
def test_flipped_bit_is_noticed(store: Store, layout: Layout, part: str) -> None:
    row = layout.add(LAYERS)
    manifest = json.loads(layout.file(row["digest"]).read_bytes())
    parts = {"manifest": row, "config": manifest["config"], "layer": manifest["layers"][0]}
    wanted = parts[part]["digest"]
    damage(layout.file(wanted))

    with pytest.raises(LayerCorrupt) as refused:
        imported(store, f"oci:{layout.path}")

    assert wanted in str(refused.value) and "digest" in refused.value.detail + refused.value.what
    assert wanted.partition(":")[2] not in stored(store)
    assert os.listdir(store.root / "tmp") == []


@pytest.mark.parametrize("change", [1, -1])
def test_announced_size_must_be_right(store: Store, layout: Layout, change: int) -> None:
    blob = layout.blob(gzip.compress(LAYERS[0]), f"{LAYER}+gzip")
    layout.add(LAYERS[:1], blobs=[{**blob, "size": blob["size"] + change}])

    with pytest.raises(LayerCorrupt, match="is not what its digest says") as refused:
        imported(store, f"oci:{layout.path}")

    assert f"where {blob['size'] + change} were announced" in refused.value.detail


def test_wrong_diff_id_is_refused(store: Store, layout: Layout) -> None:
    layout.add(LAYERS[:1], diff_ids=[digest_of(LAYERS[1])])

    with pytest.raises(LayerCorrupt) as refused:
        imported(store, f"oci:{layout.path}")

    expected, found = digest_of(LAYERS[1]), digest_of(LAYERS[0])
    assert refused.value.detail == f"expected {expected}, found {found}"
    assert not store.blobs.has(expected) and not store.blobs.has(found)


def test_missing_layer_is_told(store: Store, layout: Layout) -> None:
    row = layout.add(LAYERS)
    gone = json.loads(layout.file(row["digest"]).read_bytes())["layers"][1]["digest"]
    layout.file(gone).unlink()

    with pytest.raises(LayerCorrupt, match="is incomplete: it has no blobs/sha256/") as refused:
        imported(store, f"oci:{layout.path}")

    assert gone.partition(":")[2] in refused.value.what


@pytest.mark.parametrize("kind", ["link", "folder link", "pipe"])
def test_H54_only_regular_files_are_blobs(
    store: Store, layout: Layout, tmp_path: Path, kind: str
) -> None:
    row = layout.add(LAYERS)
    blob = layout.file(row["digest"])
    if kind == "folder link":
        (layout.path / "blobs").rename(tmp_path / "elsewhere")
        (layout.path / "blobs").symlink_to(tmp_path / "elsewhere")
    else:
        blob.rename(tmp_path / "elsewhere")
        blob.symlink_to(tmp_path / "elsewhere") if kind == "link" else os.mkfifo(blob)

    with pytest.raises(ArchiveRejected, match="is not a regular file"):
        imported(store, f"oci:{layout.path}")


@pytest.mark.parametrize(
    ("scheme", "make"),
    [("oci", lambda layout, _: layout), ("oci-archive", tar_of)],
)
def test_complete_image_is_known(
    store: Store, layout: Layout, tmp_path: Path, scheme: str, make: Callable[[Path, Path], Path]
) -> None:
    row = layout.add(LAYERS)
    source = parse_source(f"{scheme}:{make(layout.path, tmp_path / 'x.tar')}")
    assert find_imported(store, source) is None

    import_image(store, source)

    assert find_imported(store, source) == row["digest"]


def test_unchanged_archive_is_not_read_again(
    store: Store, layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = layout.add(LAYERS)
    path = tar_of(layout.path, tmp_path / "x.tar")
    monkeypatch.setattr(imports, "_SETTLED_S", -1.0)
    source = parse_source(f"oci-archive:{path}")
    import_image(store, source)
    layout.add(LAYERS[:1])
    monkeypatch.setattr(imports, "open_source", None)

    assert import_image(store, source).digest == row["digest"]


def test_changed_archive_is_read_again(
    store: Store, layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout.add(LAYERS)
    monkeypatch.setattr(imports, "_SETTLED_S", -1.0)
    source = parse_source(f"oci-archive:{tar_of(layout.path, tmp_path / 'x.tar')}")
    import_image(store, source)
    layout.rows.clear()
    row = layout.add(LAYERS[:1])
    tar_of(layout.path, tmp_path / "x.tar")

    assert import_image(store, source).digest == row["digest"]


def test_archive_just_written_is_not_remembered(
    store: Store, layout: Layout, tmp_path: Path
) -> None:
    layout.add(LAYERS)
    path = tar_of(layout.path, tmp_path / "x.tar")
    os.utime(path, (time.time() - 60,) * 2)  # what was changed is told by ctime

    imported(store, f"oci-archive:{path}")

    assert list((store.root / "cache").rglob("*.json")) == []


def test_docker_archive_is_verified_by_diff_ids(store: Store, tmp_path: Path) -> None:
    docker_archive(tmp_path / "x.tar", LAYERS)

    image = imported(store, f"docker-archive:{tmp_path}/x.tar")

    assert image.diff_ids == tuple(map(digest_of, LAYERS))
    assert [each.digest for each in image.layers] == list(image.diff_ids)


def test_compressed_docker_archive_is_read(store: Store, tmp_path: Path) -> None:
    plain = docker_archive(tmp_path / "x.tar", LAYERS)
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(plain.read_bytes()))

    found = imported(store, f"docker-archive:{tmp_path}/x.tar.gz")

    assert found.digest == imported(store, f"docker-archive:{plain}").digest
    assert os.listdir(store.root / "tmp") == []


@pytest.mark.parametrize(
    "name", ["app:1", "docker.io/library/app:1", "other", "docker.io/team/other:latest"]
)
def test_docker_names_are_completed(store: Store, tmp_path: Path, name: str) -> None:
    path = docker_archive(tmp_path / "x.tar", LAYERS, tags=["app:1", "other", "team/other"])

    assert imported(store, f"docker-archive:{path}:{name}").diff_ids[0] == digest_of(LAYERS[0])


def test_linked_layers_of_old_docker_are_followed(store: Store, tmp_path: Path) -> None:
    symbolic, hard = tarfile.TarInfo("x/layer.tar"), tarfile.TarInfo("y/layer.tar")
    symbolic.type, symbolic.linkname = tarfile.SYMTYPE, "../0/layer.tar"
    hard.type, hard.linkname = tarfile.LNKTYPE, "1/layer.tar"
    names = ["x/layer.tar", "y/layer.tar"]

    path = docker_archive(tmp_path / "x.tar", LAYERS, names=names, extra=[symbolic, hard])

    assert imported(store, f"docker-archive:{path}").diff_ids == tuple(map(digest_of, LAYERS))


@pytest.mark.parametrize("target", ["../../etc/passwd", "/etc/passwd", "x/layer.tar"])
def test_H55_links_stay_in_the_archive(store: Store, tmp_path: Path, target: str) -> None:
    link = tarfile.TarInfo("x/layer.tar")
    link.type, link.linkname = tarfile.SYMTYPE, target
    names = ["x/layer.tar", "1/layer.tar"]
    path = docker_archive(tmp_path / "x.tar", LAYERS, names=names, extra=[link])

    with pytest.raises(LayerCorrupt, match=r'is incomplete: it has no "x/layer.tar"'):
        imported(store, f"docker-archive:{path}")


@pytest.mark.parametrize(
    ("manifest", "rule"),
    [
        (b"[]", "has no image at all"),
        (b"{}", "is not a list of images"),
        (b'[], "more": 1', "is not a list of images"),
        (b"[7]", "lists something that is no image"),
        (b'[{"Config": 7, "Layers": []}]', "without Config or Layers"),
        (b'[{"Config": "../config.json", "Layers": []}]', "the name contains `..`"),
        (b'[{"Config": "config.json", "Layers": ["0/layer.tar"]}]', "lists 1 layers, the config 2"),
        (b'[{"Config": "none", "Layers": []}]', 'it has no "none"'),
        (b"[" * 5000, "is not valid JSON"),
        (b"[" + b" " * (1 << 20) + b"]", "more than 1048576 bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_H55_odd_docker_manifest_is_refused(
    store: Store, tmp_path: Path, manifest: bytes, rule: str
) -> None:
    path = docker_archive(tmp_path / "x.tar", LAYERS, manifest=manifest)

    with pytest.raises(ImageError) as refused:
        imported(store, f"docker-archive:{path}")

    assert rule in refused.value.what


def test_damaged_docker_layer_is_noticed(store: Store, tmp_path: Path) -> None:
    path = docker_archive(tmp_path / "x.tar", LAYERS)
    path.write_bytes(path.read_bytes().replace(b"a" * 1000, b"a" * 999 + b"b"))

    with pytest.raises(LayerCorrupt, match=f"layer {digest_of(LAYERS[0])} is not what"):
        imported(store, f"docker-archive:{path}")


def test_archive_cut_short_is_refused(store: Store, tmp_path: Path) -> None:
    path = docker_archive(tmp_path / "x.tar", LAYERS)
    os.truncate(path, 3000)

    with pytest.raises(ArchiveRejected, match=r"cannot be read as an archive: .*cut off"):
        imported(store, f"docker-archive:{path}")


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


@pytest.mark.parametrize("kind", ["oci", "docker", "dir"])
def test_import_and_export_are_inverse(
    store: Store, layout: Layout, tmp_path: Path, kind: oci.Format
) -> None:
    row = layout.add(LAYERS)
    image = imported(store, f"oci:{layout.path}")

    oci.export(store, image.digest, tmp_path / "out", format=kind, name="x")

    with Store.open(tmp_path / "other") as other:
        again = oci.read_image(
            other, import_image(other, find_source(str(tmp_path / "out"))).digest
        )
        assert again.diff_ids == image.diff_ids
        assert again.config_blob.digest == image.config_blob.digest
        assert kind == "docker" or again.digest == row["digest"]


def test_export_remakes_uncompressed_layers(store: Store, layout: Layout, tmp_path: Path) -> None:
    layout.add(LAYERS)
    image = imported(store, f"oci:{layout.path}")
    store.blobs.path(image.diff_ids[0]).unlink()

    oci.export(store, image.digest, tmp_path / "x.tar", format="docker", name="x")

    with tarfile.open(tmp_path / "x.tar") as archived:
        name = f"{image.diff_ids[0].partition(':')[2]}.tar"
        assert (archived.extractfile(name) or io.BytesIO()).read() == LAYERS[0]


def test_progress_hears_of_every_layer(store: Store, layout: Layout) -> None:
    row = layout.add(LAYERS)
    heard: list[object] = []

    class Progress:
        def begin(self, layers: int) -> None:
            heard.append(layers)

        def layer(self, digest: str, *, size: int | None, is_known: bool) -> None:
            heard.append((digest, size, is_known))

        def advance(self, size: int) -> None:
            heard.append(size)

    import_image(store, parse_source(f"oci:{layout.path}"), progress=Progress())
    import_image(store, parse_source(f"oci:{layout.path}"), progress=Progress())

    ids = [digest_of(each) for each in LAYERS]
    sizes = [each["size"] for each in json.loads(layout.file(row["digest"]).read_bytes())["layers"]]
    first = [2, (ids[0], sizes[0], False), sizes[0], (ids[1], sizes[1], False), sizes[1]]
    assert heard == [*first, 2, (ids[0], sizes[0], True), (ids[1], sizes[1], True)]


def test_types_of_docker_are_known(store: Store, layout: Layout) -> None:
    docker = "application/vnd.docker."
    blob = layout.blob(gzip.compress(LAYERS[0]), f"{docker}image.rootfs.diff.tar.gzip")
    config = layout.document(
        {"rootfs": {"diff_ids": [digest_of(LAYERS[0])]}}, f"{docker}container.image.v1+json"
    )
    kind = f"{docker}distribution.manifest.v2+json"
    document = {"schemaVersion": 2, "mediaType": kind, "config": config, "layers": [blob]}
    layout.rows = [layout.document(document, kind)]
    layout.write_index()

    image = imported(store, f"oci:{layout.path}")

    assert image.media_type == kind


def test_media_types_are_the_specification_s() -> None:
    assert (MANIFEST, CONFIG, LAYER) == (oci.MANIFEST_TYPE, oci.CONFIG_TYPE, oci.LAYER_TYPE)
