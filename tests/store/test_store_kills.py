"""A writer that is killed at any point leaves a sound store, and its work can be done again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
from features import needs
from foreign_images import Layout, layer
from publishing import DIFF_ID, command, publish_everything

from pytest_rootfs.store import oci
from pytest_rootfs.store.checks import fsck
from pytest_rootfs.store.collect import gc
from pytest_rootfs.store.store import Store

CALLS = ["link", "rename", "mkdir", "unlink", "fdatasync", "fchmod"]
"""What changes which names a store has, or what is behind them."""


def traced(options: list[str], root: Path, layout: Layout) -> subprocess.CompletedProcess[str]:
    strace = ["strace", "-f", "-qq", *options, *command(root, layout.path)]
    return subprocess.run(strace, capture_output=True, text=True, check=False, timeout=60)


@needs("strace")
@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
def test_killed_at_every_publish_point(tmp_path: Path, call: str) -> None:
    layout = Layout(tmp_path / "layout")
    digest = layout.add([layer("a"), layer("b")])["digest"]
    whole = traced([f"-etrace={call}"], tmp_path / "whole", layout)
    count = len(re.findall(rf"^(?:\[pid +\d+\] )?{call}\(", whole.stderr, re.MULTILINE))
    assert (whole.returncode, count > 0) == (0, True), whole.stderr

    for number in range(1, count + 1):
        root = tmp_path / f"store-{number}"
        kill = f"inject={call}:signal=KILL:when={number}"  # on entry: the call is not made
        killed = traced(["-o", os.devnull, "-e", kill], root, layout)
        assert killed.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), kill

        check_sound(root, digest, kill)
        publish_everything(root, layout.path)
        with Store.open(root) as store:
            gc(store)
            assert store.refs.get("app") == digest, kill
        check_sound(root, digest, kill)
        left = {name: os.listdir(root / name) for name in ("tmp", "trash")}
        assert left == {"tmp": [], "trash": []}, kill


def check_sound(root: Path, digest: str, kill: str) -> None:
    """Check that whatever has a name is whole."""
    with Store.open(root) as store:
        assert fsck(store).problems == (), kill
        for named in store.refs.list().values():
            assert oci.read_image(store, named).digest == digest, kill
        if store.has_layer("u", DIFF_ID):
            file = root / "layers" / "u" / DIFF_ID.partition(":")[2] / "fs" / "file"
            assert file.read_text() == "content", kill


@pytest.mark.parametrize("is_there", [True, False], ids=["behind", "missing"])
def test_lost_index_is_written_again(store: Store, tmp_path: Path, *, is_there: bool) -> None:
    layout = Layout(tmp_path / "layout")
    layout.add([layer("a")])
    path = store.root / "index.json"
    empty = path.read_bytes()
    publish_everything(store.root, layout.path)
    index = path.read_bytes()
    path.unlink()
    if is_there:
        path.write_bytes(empty)
        os.utime(path, (0, 0))

    Store.open(store.root).close()

    assert path.read_bytes() == index != empty
