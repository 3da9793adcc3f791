"""Many processes on one store: the work is done once, nothing breaks, nothing wanted goes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from archives import archive, file, folder

import pytest_rootfs
from pytest_rootfs.store import oci
from pytest_rootfs.store.collect import gc
from pytest_rootfs.store.store import Store

SOURCE = str(Path(pytest_rootfs.__file__).parents[1])
PRELUDE = """
import os, pathlib, signal, sys
sys.path.insert(0, sys.argv[1])
from pytest_rootfs.store import oci
from pytest_rootfs.store.store import Store
store = Store.open(pathlib.Path(sys.argv[2]))
"""
BUILD_ONCE = """
digest = "sha256:" + "1" * 64
print("ready", flush=True)
sys.stdin.readline()
with store.lock("layer-1"):
    if not store.has_layer("u", digest):
        print("built", flush=True)
        with store.stage_layer("u", None) as staged:
            staged.publish(digest, {})
"""
BUILD_MANY = """
for number in range(8):
    layer = store.blobs.put(b"%s-%d" % (sys.argv[3].encode(), number), oci.LAYER_TYPE)
    with store.stage_layer("u", None) as staged:
        staged.publish(layer.digest, {})
    image = oci.write_image(store, layers=[layer], config={})
    store.refs.set(f"app-{sys.argv[3]}", image.digest)
    assert store.blobs.has(layer.digest) and store.has_layer("u", layer.digest)
    assert oci.read_image(store, store.refs.get(f"app-{sys.argv[3]}"))
"""


def started(program: str, store: Store, *args: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PRELUDE + program, SOURCE, str(store.root), *map(str, args)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def outputs(processes: Sequence[subprocess.Popen[str]]) -> list[str]:
    found = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), found
    return found


@pytest.mark.slow
def test_four_processes_build_once(store: Store) -> None:
    processes = [started(BUILD_ONCE, store) for _ in range(4)]
    for process in processes:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()

    found = outputs(processes)

    assert sorted(found) == [""] * 3 + ["built\n"]


@pytest.mark.slow
def test_collection_storm_breaks_no_build(store: Store) -> None:
    processes = [started(BUILD_MANY, store, number) for number in range(3)]
    while any(process.poll() is None for process in processes):
        gc(store, retention_s=-1)
    outputs(processes)

    gc(store)

    assert list(store.refs.list()) == ["app-0", "app-1", "app-2"]
    for digest in store.refs.list().values():
        (layer,) = oci.read_image(store, digest).layers
        assert store.has_layer("u", layer.digest)
    assert len(os.listdir(store.root / "blobs" / "sha256")) == 9
    assert os.listdir(store.root / "tmp") == []


KILLED = f"""
import pytest_rootfs.store.staged
def kill(*args, **keywords):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(os if sys.argv[4] == "os" else pathlib.Path, sys.argv[3], kill)
layer = store.blobs.put({archive(folder("."), file("f"))!r}, oci.LAYER_TYPE)
with store.stage_layer("u", None) as staged:
    staged.publish(layer.digest, {{}})
image = oci.write_image(store, layers=[layer], config={{}})
store.refs.set("app", image.digest)
"""


@pytest.mark.parametrize(
    "call",
    [
        "os.link",
        "os.fdatasync",
        "os.fchmod",
        "Path.mkdir",
        "Path.rename",
        "Path.unlink",
    ],
)
def test_killed_build_leaves_sound_store(store: Store, call: str) -> None:
    owner, _, name = call.partition(".")

    process = started(KILLED, store, name, owner)
    process.communicate(timeout=60)
    gc(store)

    assert process.returncode == -signal.SIGKILL
    assert os.listdir(store.root / "tmp") == []
    assert os.listdir(store.root / "leases") == []
    with Store.open(store.root) as again:
        for blob in (again.root / "blobs" / "sha256").iterdir():
            again.blobs.read_bytes(f"sha256:{blob.name}")
