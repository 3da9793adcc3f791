"""Do everything once that gives names in a store; run by tests here and in processes that die."""

from __future__ import annotations

import sys
from pathlib import Path

from pytest_rootfs.store.imports import import_image
from pytest_rootfs.store.sources import parse_source
from pytest_rootfs.store.store import Store

DIFF_ID = "sha256:" + "7" * 64
"""The layer that is unpacked; it has no blob."""


def publish_everything(root: Path, layout: Path) -> None:
    """Import an image, tag it, unpack a layer, remember a result."""
    with Store.open(root) as store:
        image = import_image(store, parse_source(f"oci:{layout}"))
        store.refs.set("app", image.digest)
        if not store.has_layer("u", DIFF_ID):
            with store.stage_layer("u", None) as staged:
                Path(f"/proc/self/fd/{staged.fd}/file").write_text("content")
                staged.publish(DIFF_ID, {})
        store.cache.put("1" * 64, {"layer": DIFF_ID})


def command(root: Path, layout: Path) -> list[str]:
    """Return the command that does it in a process of its own."""
    program = "import sys; sys.path[:0] = sys.argv[1:3]; import publishing; publishing.main()"
    import pytest_rootfs

    paths = [str(Path(__file__).parent), str(Path(pytest_rootfs.__file__).parents[1])]
    return [sys.executable, "-I", "-S", "-c", program, *paths, str(root), str(layout)]


def main() -> None:
    """Do it as a program."""
    publish_everything(*map(Path, sys.argv[3:]))
