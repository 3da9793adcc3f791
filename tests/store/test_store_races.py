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
from features import needs
from foreign_images import Layout, layer

import pytest_rootfs
from pytest_rootfs.store import oci
from pytest_rootfs.store.checks import fsck
from pytest_rootfs.store.collect import gc
from pytest_rootfs.store.store import Store

SOURCE = str(Path(pytest_rootfs.__file__).parents[1])
SUPPORT = str(Path(__file__).parents[1] / "support")
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


def run_together(program: str, count: int, store: Store, *args: object) -> list[str]:
    """Run a program many times at once, from the moment when all are ready."""
    processes = [started(program, store, *args) for _ in range(count)]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return outputs(processes)


@pytest.mark.slow
def test_four_processes_build_once(store: Store) -> None:
    found = run_together(BUILD_ONCE, 4, store)

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


BUILD_RECIPE = """
sys.path.insert(0, sys.argv[3])
from building import Session
from pytest_rootfs.builder import Builder
from pytest_rootfs.image import Image
class Noted(Session):
    def run_step(self, base, step):
        print("built", end=" ", flush=True)
        return super().run_step(base, step)
builder = Builder(store, Noted(store))
print("ready", flush=True)
sys.stdin.readline()
print(builder.build(Image.scratch().file("/a", "a").run("one").file("/b", "b").run("two")).digest)
"""
IMPORT = """
from pytest_rootfs.store import imports
from pytest_rootfs.store.sources import parse_source
write = imports._Import._write
def noted(*words):
    print("decompressed", end=" ", flush=True)
    return write(*words)
imports._Import._write = noted
print("ready", flush=True)
sys.stdin.readline()
print(imports.import_image(store, parse_source(f"oci:{sys.argv[3]}")).digest)
"""


@pytest.mark.slow
def test_sixteen_processes_build_one_recipe_once(store: Store) -> None:
    found = run_together(BUILD_RECIPE, 16, store, SUPPORT)

    words = " ".join(found).split()
    assert words.count("built") == 2
    assert len({word for word in words if word != "built"}) == 1


@pytest.mark.slow
def test_sixteen_processes_import_one_image_once(store: Store, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    digest = layout.add([layer("a"), layer("b"), layer("c")])["digest"]

    found = run_together(IMPORT, 16, store, layout.path)

    words = " ".join(found).split()
    assert sorted(words) == ["decompressed"] * 3 + [digest] * 16
    assert fsck(store).problems == ()
    assert os.listdir(store.root / "tmp") == []


@pytest.mark.slow
def test_collection_storm_breaks_no_import(store: Store, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    digest = layout.add([layer("a"), layer("b")])["digest"]
    program = IMPORT.replace("import_image(store", "import_image(Store.open(store.root)") + (
        "store.refs.set(sys.argv[4], imports.import_image(store, parse_source("
        'f"oci:{sys.argv[3]}")).digest)\n'
    )
    processes = [started(program, store, layout.path, f"app-{number}") for number in range(4)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()

    while any(process.poll() is None for process in processes):
        gc(store, retention_s=-1, size_bytes=1)
    outputs(processes)

    assert store.refs.list() == {f"app-{number}": digest for number in range(4)}
    assert fsck(store).problems == ()


@needs("userns")
@pytest.mark.slow
@pytest.mark.parametrize("size", [4096 * pages for pages in range(12, 40, 4)])
def test_full_disk_publishes_nothing_half(tmp_path: Path, size: int) -> None:
    layout = Layout(tmp_path / "layout")
    big = os.urandom(40_000).hex().encode()
    layout.add([archive(folder("."), file("f", big))])
    (tmp_path / "disk").mkdir()
    fill = """
import errno, os, pathlib, publishing, sys
from pytest_rootfs.errors import RootfsError
from pytest_rootfs.kernel import syscalls
from pytest_rootfs.store.checks import fsck
from pytest_rootfs.store.store import Store
root = pathlib.Path(sys.argv[3], "store")
try:
    publishing.publish_everything(root, sys.argv[4])
except RootfsError as error:
    assert "No space left" in error.what and "pytest-rootfs gc" in error.hint, error
    print("full")
except OSError as error:
    assert error.errno == errno.ENOSPC
    print("full")
with Store.open(root) as store:
    assert fsck(store).problems == (), fsck(store).problems
    assert os.listdir(root / "tmp") == []
"""
    mount = f'mount -t tmpfs -o size={size} tmpfs {tmp_path}/disk && exec "$@"'
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh"]
    prelude = "import sys; sys.path[:0] = sys.argv[1:3]"
    words = [SUPPORT, SOURCE, str(tmp_path / "disk"), str(layout.path)]

    done = subprocess.run(
        [*unshare, sys.executable, "-I", "-c", prelude + fill, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert (done.returncode, done.stdout) == (0, "full\n"), done.stderr


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
