"""The images that are shipped: what they hold, and that their programs run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest
from building import Session, members
from features import needs
from places import temporary_folder

from pytest_rootfs.builder import Builder, BuiltImage
from pytest_rootfs.errors import RecipeError
from pytest_rootfs.image import Image
from pytest_rootfs.image.programs import find_program
from pytest_rootfs.image.references import resolve
from pytest_rootfs.settings import SOURCE_DATE_EPOCH
from pytest_rootfs.store.store import Store

NOBODY = 65534


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Store.open(tmp_path_factory.mktemp("shipped") / "store") as opened:
        yield opened


@pytest.fixture(scope="module")
def builder(store: Store) -> Builder:
    return Builder(store, Session(store))


@pytest.fixture(scope="module")
def minimal(builder: Builder) -> BuiltImage:
    return builder.build("minimal")


def test_minimal_has_layout_libraries_programs(store: Store, minimal: BuiltImage) -> None:
    layout, libraries, programs = (members(store, diff_id) for diff_id in minimal.layers)

    assert layout["tmp"].mode == 0o1777
    assert layout["bin"].linkname == "usr/bin"
    assert any("libc." in name for name in libraries)
    assert "usr/bin/sh" in programs
    assert minimal.name == "minimal"
    assert minimal.size == sum(
        store.blobs.path(diff_id).stat().st_size for diff_id in minimal.layers
    )


def test_only_constant_times_and_owners(store: Store, minimal: BuiltImage) -> None:
    found = [member for diff_id in minimal.layers for member in members(store, diff_id).values()]

    assert {member.mtime for member in found} == {SOURCE_DATE_EPOCH}
    assert {(member.uid, member.gid, member.uname, member.gname) for member in found} == {
        (0, 0, "", "")
    }


def test_no_program_gains_rights(store: Store, minimal: BuiltImage) -> None:
    modes = {
        member.mode & 0o6000
        for diff_id in minimal.layers
        for member in members(store, diff_id).values()
    }

    assert modes == {0}


@pytest.mark.slow
@needs("root")
def test_same_digest_as_root_and_as_user(store: Store, minimal: BuiltImage) -> None:
    image = resolve("minimal", store=store, folders=[])

    # Below /tmp itself: pytest and the suite keep their folders to their owner.
    with temporary_folder("/tmp") as home:
        os.chown(home, NOBODY, NOBODY)
        os.seteuid(NOBODY)
        try:
            with Store.open(home / "store") as other:
                again = Builder(other, Session(other)).build(image)
        finally:
            os.seteuid(0)

    assert again == minimal


@pytest.mark.slow
@needs("root")
def test_programs_of_minimal_run(
    tmp_path_factory: pytest.TempPathFactory, store: Store, minimal: BuiltImage
) -> None:
    root = tmp_path_factory.mktemp("root")
    for diff_id in minimal.layers:
        subprocess.run(["tar", "-xf", store.blobs.path(diff_id), "-C", root], check=True)

    script = (
        "printf 'b\\na\\n' | sort | sed s/a/A/ | grep -n A; find /tmp; id -un; awk 'BEGIN{print 7}'"
    )
    done = subprocess.run(
        ["chroot", root, "/bin/sh", "-c", script], capture_output=True, text=True, check=False
    )

    assert (done.stdout, done.stderr) == ("1:A\n/tmp\nroot\n7\n", "")


def test_library_of_base_is_not_copied_again(builder: Builder, minimal: BuiltImage) -> None:
    built = builder.build(Image("minimal").add_binary("/usr/bin/env"))

    assert built.layers == minimal.layers


def test_program_lands_where_it_was_asked_for(store: Store, builder: Builder) -> None:
    built = builder.build(Image.scratch().add_binary("/bin/sh"))

    assert "bin/sh" in members(store, built.layers[0])


def test_static_busybox_is_two_layers(store: Store, builder: Builder) -> None:
    if not find_program("busybox"):
        with pytest.raises(RecipeError, match="busybox-static"):
            builder.build("busybox")
        return

    built = builder.build("busybox")

    applets = members(store, built.layers[1])
    assert applets["usr/bin/busybox"].isreg()
    assert applets["usr/bin/ls"].linkname == "/bin/busybox"
