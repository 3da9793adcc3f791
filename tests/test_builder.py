"""Images as they end up in a store: content, identity, caching, single flight."""

from __future__ import annotations

import os
import resource
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from building import Session, members, texts

from pytest_rootfs.builder import Builder
from pytest_rootfs.errors import BuildFailed, ImageError, ImageNotFound, RecipeError
from pytest_rootfs.image import Image
from pytest_rootfs.image.config import ImageConfig
from pytest_rootfs.image.steps import RunStep
from pytest_rootfs.store import oci
from pytest_rootfs.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def session(store: Store) -> Session:
    return Session(store)


@pytest.fixture
def builder(store: Store, session: Session) -> Builder:
    return Builder(store, session)


@pytest.fixture
def new_session(tmp_path: Path, session: Session) -> Iterator[Callable[[], Builder]]:
    """Return builders that share nothing but the folder of the store."""
    stores: list[Store] = []

    def start() -> Builder:
        stores.append(Store.open(tmp_path / "store"))
        return Builder(stores[-1], session)

    yield start
    for opened in stores:
        opened.close()


def test_digest_is_of_the_manifest(store: Store, builder: Builder) -> None:
    built = builder.build(Image.scratch().file("/x", "").env(A="1").user("7"))

    image = oci.read_image(store, built.digest)
    assert image.diff_ids == built.layers
    assert image.config["config"] == {"Env": ["A=1"], "User": "7"}
    assert built.config == ImageConfig(env=("A=1",), user="7")
    assert [bool(entry.get("empty_layer")) for entry in image.config["history"]] == [
        False,
        True,
        True,
    ]


def test_same_recipe_same_digest(tmp_path: Path, builder: Builder) -> None:
    (tmp_path / "app").write_text("x")
    image = Image.scratch().copy(tmp_path / "app", "/opt/app").file("/etc/x", "y")
    built = builder.build(image)

    with Store.open(tmp_path / "other") as other:
        again = Builder(other, Session(other)).build(image)

    assert again == built


def test_copied_content_decides(tmp_path: Path, builder: Builder) -> None:
    (tmp_path / "a").write_text("same")
    (tmp_path / "b").write_text("same")
    os.utime(tmp_path / "b", (0, 0))

    one = builder.build(Image.scratch().copy(tmp_path / "a", "/x"))
    other = builder.build(Image.scratch().copy(tmp_path / "b", "/x"))
    (tmp_path / "c").write_text("different")
    third = builder.build(Image.scratch().copy(tmp_path / "c", "/x"))

    assert one.layers == other.layers
    assert third.layers != one.layers


def test_second_build_touches_nothing(builder: Builder, session: Session) -> None:
    image = Image.scratch().file("/x", "").run("true")
    first = builder.build(image)
    unpacked = list(session.unpacked)

    again = builder.build(Image.scratch().file("/x", "").run("true"))

    assert again == first
    assert session.unpacked == unpacked == list(first.layers)
    assert len(session.ran) == 1


def test_new_session_reads_no_program(
    builder: Builder, new_session: Callable[[], Builder], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = Image.scratch().add_binary("/bin/sh")
    built = builder.build(image)
    monkeypatch.setattr(subprocess, "run", None)

    again = new_session().known(image)

    assert again == built


def test_known_builds_nothing(builder: Builder, session: Session) -> None:
    assert builder.known("minimal") is None
    assert session.unpacked == []

    with pytest.raises(ImageNotFound, match="no image is named 'minimall'"):
        builder.known("minimall")


def test_known_finds_what_was_built_from_a_source_of_a_moment_ago(
    tmp_path: Path, builder: Builder, new_session: Callable[[], Builder]
) -> None:
    (tmp_path / "app").write_text("one")
    image = Image.scratch().copy(tmp_path / "app", "/app")
    built = builder.build(image)

    assert new_session().known(image) == built
    (tmp_path / "app").write_text("two")
    assert new_session().known(image) is None
    (tmp_path / "app").unlink()
    assert new_session().known(image) is None


def test_changed_source_is_noticed(
    tmp_path: Path, builder: Builder, new_session: Callable[[], Builder]
) -> None:
    (tmp_path / "app").write_text("one")
    image = Image.scratch().copy(tmp_path / "app", "/app")
    builder.build(image)
    (tmp_path / "app").write_text("two")

    later = new_session()
    built = later.build(image)

    assert texts(later._store, built) == {"app": "two"}


def test_build_looks_again_and_get_built_does_not(tmp_path: Path, builder: Builder) -> None:
    source = tmp_path / "app"
    source.write_text("one")
    image = Image.scratch().copy(source, "/app")
    above = image.file("/x", "")
    first, first_above = builder.build(image), builder.get_built(above)
    source.write_text("two")

    assert builder.get_built(image) == first
    second = builder.build(image)

    assert texts(builder._store, second) == {"app": "two"}
    assert builder.get_built(image) == second
    assert builder.get_built(above).layers[0] == second.layers[0] != first_above.layers[0]


def test_collected_layer_is_built_again(
    store: Store, builder: Builder, new_session: Callable[[], Builder]
) -> None:
    image = Image.scratch().file("/x", "y")
    built = builder.build(image)
    store.blobs.path(built.layers[0]).unlink()

    assert new_session().known(image) is None
    assert new_session().build(image) == built
    assert store.blobs.path(built.layers[0]).exists()


def test_run_sees_image_so_far(builder: Builder, session: Session) -> None:
    image = Image.scratch().env(A="1").file("/x", "").workdir("/srv").run(["setup", "now"])

    builder.build(image)

    ((base, step),) = session.ran
    assert step == RunStep(command=("setup", "now"))
    assert (base.config.env, base.config.working_dir) == (("A=1",), "/srv")
    assert len(base.layers) == 1


def test_run_depends_on_what_it_sees(builder: Builder, session: Session) -> None:
    for image in (
        Image.scratch().run("x"),
        Image.scratch().label(a="b").run("x"),
        Image.scratch().env(A="1").run("x"),
        Image.scratch().run(["x"]),
        Image.scratch().run("x", network=True),
        Image.scratch().file("/f", "").run("x"),
    ):
        builder.build(image)

    assert len(session.ran) == 5  # a label is invisible inside


def test_folders_made_by_run_keep_attributes(store: Store, builder: Builder) -> None:
    built = builder.build(Image.scratch().run("x").file("/srv/new", ""))

    parent = members(store, built.layers[-1])["srv"]
    assert (parent.mode, parent.uid) == (0o700, 7)


def test_step_without_change_has_no_layer(
    builder: Builder, session: Session, new_session: Callable[[], Builder]
) -> None:
    session.change_nothing = True
    image = Image.scratch().run("true")

    built = builder.build(image)

    assert built.layers == ()
    assert new_session().known(image) == built
    assert len(session.ran) == 1


def test_step_is_run_by_one_builder(tmp_path: Path, session: Session) -> None:
    barrier = threading.Barrier(4)
    digests: list[str] = []

    def build() -> None:
        with Store.open(tmp_path / "store") as own:
            builder = Builder(own, session)
            barrier.wait(10)
            digests.append(builder.build(Image.scratch().file("/x", "").run("slow")).digest)

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(digests) == 4
    assert len(set(digests)) == 1
    assert len(session.ran) == 1


def test_host_has_only_what_is_added(store: Store, builder: Builder) -> None:
    built = builder.build(Image.host().file("/usr/share/new-file", "x"))

    assert built.is_host
    assert list(members(store, built.layers[0])) == [
        ".",
        "usr",
        "usr/share",
        "usr/share/new-file",
    ]


def test_command_on_host_is_run_anew(
    builder: Builder, session: Session, new_session: Callable[[], Builder]
) -> None:
    builder.build(Image.host().run("x"))
    new_session().build(Image.host().run("x"))

    assert len(session.ran) == 2


def test_host_leaves_this_machine_never(tmp_path: Path, builder: Builder) -> None:
    with pytest.raises(ImageError, match="image host cannot be exported"):
        builder.export("host", tmp_path / "x.tar")
    with pytest.raises(ImageError, match="image host cannot be tagged"):
        builder.tag(Image.host(), "mine")


def test_tag_becomes_a_reference(builder: Builder, new_session: Callable[[], Builder]) -> None:
    built = builder.tag(Image.scratch().env(A="1").file("/x", "one"), "app:1")

    again = new_session().build(Image("app:1").file("/y", "two"))

    assert built.name == "app:1"
    assert again.layers[:1] == built.layers
    assert again.config == built.config


def test_tag_may_move(store: Store, builder: Builder) -> None:
    builder.tag(Image.scratch().file("/x", "one"), "app")
    builder.build("app")
    builder.tag(Image.scratch().file("/x", "two"), "app")

    assert texts(store, builder.build("app")) == {"x": "two"}


@pytest.mark.parametrize("name", ["oci:x", "host:", "sha256:" + "0" * 64])
def test_tag_cannot_look_like_a_scheme(builder: Builder, name: str) -> None:
    with pytest.raises(ImageError, match="cannot be a tag"):
        builder.tag(Image.scratch(), name)


@pytest.mark.parametrize("name", ["", "a b", "../../x", "/x", "x/", "a//b", "a:b:c", "é", "a\n"])
def test_tag_is_a_name(builder: Builder, name: str) -> None:
    with pytest.raises(ImageError, match="cannot be a tag: it is not a name") as refused:
        builder.tag(Image.scratch(), name)

    assert refused.value.what.startswith(repr(name))


@pytest.mark.parametrize("name", ["app", "app:1.0", "team/app:a-1", "localhost:5000/team/app:1"])
def test_tag_may_have_parts(builder: Builder, name: str) -> None:
    assert builder.tag(Image.scratch(), name).name == name


def test_unknown_digest_is_not_found(builder: Builder) -> None:
    with pytest.raises(ImageNotFound, match="no image has the digest sha256:000"):
        builder.build("sha256:" + "0" * 64)


def test_digest_is_a_reference(builder: Builder, new_session: Callable[[], Builder]) -> None:
    built = builder.build(Image.scratch().env(A="1").file("/x", ""))

    again = new_session().build(built.digest)

    assert (again.digest, again.layers, again.config) == (built.digest, built.layers, built.config)


def test_failing_step_is_located(tmp_path: Path, builder: Builder) -> None:
    image = Image.scratch().env(A="1").copy(tmp_path / "nowhere", "/x")

    with pytest.raises(RecipeError) as caught:
        builder.build(image)

    assert caught.value.what == (
        f"image scratch+2, step 2 (copy): source {tmp_path}/nowhere does not exist"
    )


def test_full_disk_is_one_sentence(tmp_path: Path, store: Store, builder: Builder) -> None:
    big = tmp_path / "big"
    big.write_bytes(bytes(3 << 20))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(BuildFailed, match="cannot write to the store") as caught:
            builder.build(Image.scratch().copy(big, "/big"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert "pytest-rootfs gc" in caught.value.hint
    assert list((store.root / "tmp").iterdir()) == []


def test_odd_names_survive(tmp_path: Path, store: Store, builder: Builder) -> None:
    names = {b"caf\xe9", b"new\nline", "é".encode(), b"-rf ", b"x" * 255}
    (tmp_path / "odd").mkdir()
    for name in names:
        (tmp_path / "odd" / os.fsdecode(name)).touch()

    image = Image.scratch().copy(tmp_path / "odd", "/o").file("/o/more", "")
    built = builder.build(image)

    found = {os.fsencode(name).removeprefix(b"o/") for name in members(store, built.layers[0])}
    assert names <= found
