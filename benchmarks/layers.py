"""What a layer costs: unpacking and packing a Debian of 140 MB, ours, umoci's and GNU tar's.

Ours runs as the product runs it, as a job in the user namespace, digests included. `umoci raw
unpack` does the same work; `umoci unpack` also records the tree for a later repack. `umoci repack`
compares a tree in which one file has changed and packs that; ours packs every file. The root is
made once, by mmdebstrap, and kept in a cache folder. The peak of memory is that of a process that
unpacks and packs one large file.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.figures import Result, Samples, interleaved
from benchmarks.stage import Refused, Stage
from pytest_rootfs.engine import Engine, EngineSettings
from pytest_rootfs.store import oci

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pytest-rootfs-benchmark"
ABOUT = "unpack and pack a layer, beside umoci and GNU tar; the peak of memory for a large file"
BESIDE = {"unpack": "umoci raw unpack", "pack": "umoci repack"}
MEMORY_PROGRAM = """
import os, sys
from pytest_rootfs.errors import ArchiveRejected
from pytest_rootfs.store.entries import Entry
from pytest_rootfs.store.layers import unpack
from pytest_rootfs.store.packing import pack
from pytest_rootfs.store.tar_writer import TarWriter
from pytest_rootfs.store.uppers import Sides

size = int(sys.argv[2])
chunk = bytes(range(1, 256)) * 4096

class Archive:
    '''An archive of one file, made while it is read.'''

    def __init__(self):
        header = []
        writer = TarWriter(header.append)
        try:
            writer.add(Entry(name=b"f", kind="file", mode=0o644, size=size))
        except ArchiveRejected:
            pass  # no data yet: it comes below
        self.parts = self.chunks(b"".join(header))
        self.rest = b""

    def chunks(self, header):
        yield header
        left = size
        while left:
            part = chunk[:left]
            left -= len(part)
            yield part
        yield bytes(1024)

    def read(self, wanted):
        if not self.rest:
            self.rest = next(self.parts, b"")
        part, self.rest = self.rest[:wanted], self.rest[wanted:]
        return part

folder_fd = os.open(sys.argv[1], os.O_RDONLY)
unpack(Archive(), folder_fd, squash_ids=True)
with open(os.devnull, "wb") as out:
    pack(Sides(upper_fd=folder_fd), out)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(status["VmHWM"].split()[0])
"""


def essential(cache: Path) -> Path:
    """Return an archive of Debian's essential packages, made once."""
    path = cache / "essential.tar"
    if not path.exists():
        if not shutil.which("mmdebstrap"):
            raise Refused("mmdebstrap, which makes the Debian once, is not installed")
        cache.mkdir(parents=True, exist_ok=True)
        sources = sorted(Path("/etc/apt").glob("sources.list.d/*.sources"))
        made = path.with_suffix(".new")
        command = ["mmdebstrap", "--variant=essential", "--format=tar", "bookworm", str(made)]
        environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
        subprocess.run(
            [*command, *map(str, sources[:1])], check=True, env=environment, capture_output=True
        )
        made.rename(path)
    return path


@contextlib.contextmanager
def engine_with(tar: Path, folder: Path) -> Iterator[tuple[Engine, str]]:
    """Give an engine whose store has an image of one layer, and that layer."""
    engine = Engine(EngineSettings(store=folder / "store", limits="off"), warn=print)
    with contextlib.closing(engine):
        with engine.store.blobs.new() as writer, tar.open("rb") as source:
            shutil.copyfileobj(source, writer, 1 << 20)
            layer = writer.commit(oci.LAYER_TYPE)
        manifest = oci.write_image(engine.store, layers=[layer], config={})
        engine.store.refs.set("essential", manifest.digest)
        yield engine, layer.digest


class Ours:
    """Unpacks and packs the layer as an engine does."""

    def __init__(self, engine: Engine, layer: str) -> None:
        self._engine = engine
        self._layer = layer
        self.name = engine.unpack([layer])[0]

    def unpack(self) -> float:
        """Unpack the layer."""
        engine = self._engine
        with (
            engine.store.blobs.open(self._layer) as blob,
            engine.store.stage_layer(engine.ids.key, engine.layer_owner) as staged,
        ):
            args = {"squash_ids": engine.ids.is_single, "knows_below": True}
            began = time.perf_counter()
            engine.session.job("unpack_layer", args, [blob.fileno(), staged.fd], trees=[1])
            took = time.perf_counter() - began
        engine.store.close()
        for left in (engine.store.root / "trash").iterdir():
            shutil.rmtree(left)
        return took

    def pack(self) -> float:
        """Pack its whole tree."""
        store = self._engine.store
        folder_fd = store.layers_fd(self._engine.ids.key, self._engine.layer_owner)
        layer_fd = os.open(
            f"{self.name.partition(':')[2]}/fs", os.O_RDONLY | os.O_DIRECTORY, dir_fd=folder_fd
        )
        try:
            with store.blobs.new(durable=False) as writer:
                began = time.perf_counter()
                self._engine.session.job("pack_layer", {}, [writer.fd, layer_fd])
                return time.perf_counter() - began
        finally:
            os.close(layer_fd)
            os.close(folder_fd)


class Theirs:
    """Runs other programs on the same image."""

    def __init__(self, store: Path, tar: Path, folder: Path) -> None:
        self._image = f"{store}:essential"
        self._tar = tar
        self._folder = folder
        self._rootless = [] if os.getuid() == 0 else ["--rootless"]
        self._bundle = folder / "bundle"
        self._layout = folder / "layout"
        self._count = 0
        shutil.copytree(store, self._layout, ignore=shutil.ignore_patterns("layers", "tmp"))
        self._run("umoci", "unpack", *self._rootless, "--image", self._image, self._bundle)

    def candidates(self) -> dict[str, Callable[[], float]]:
        """Return what is measured, by name."""
        return {
            "umoci raw unpack": self.raw_unpack,
            "umoci unpack": self.unpack,
            "umoci repack": self.repack,
            "tar -x": self.gnu_tar,
        }

    def raw_unpack(self) -> float:
        """Unpack, and nothing else."""
        return self._fresh("umoci", "raw", "unpack", *self._rootless, "--image", self._image)

    def unpack(self) -> float:
        """Unpack, and record the tree."""
        return self._fresh("umoci", "unpack", *self._rootless, "--image", self._image)

    def repack(self) -> float:
        """Compare, and pack one file."""
        self._count += 1
        (self._bundle / "rootfs" / "etc" / "changed").write_text(str(self._count))
        return self._run(
            "umoci", "repack", "--image", f"{self._layout}:new{self._count}", self._bundle
        )

    def gnu_tar(self) -> float:
        """Unpack without a digest."""
        (self._folder / "out").mkdir()
        return self._fresh("tar", "--no-same-owner", "-xf", self._tar, "-C")

    def _fresh(self, *argv: object) -> float:
        target = self._folder / "out"
        try:
            return self._run(*argv, target)
        finally:
            shutil.rmtree(target)

    def _run(self, *argv: object) -> float:
        began = time.perf_counter()
        done = subprocess.run([str(each) for each in argv], capture_output=True, check=False)
        took = time.perf_counter() - began
        if done.returncode and argv[0] != "tar":  # only root may make device nodes
            raise Refused(done.stderr.decode().strip())
        return took


def peak_mb(folder: Path, size_bytes: int) -> float:
    """Return the peak of memory of a process that unpacks and packs a file, in MB."""
    (folder / "big").mkdir()
    argv = [sys.executable, "-c", MEMORY_PROGRAM, str(folder / "big"), str(size_bytes)]
    top = Path(__file__).parents[1]
    done = subprocess.run(argv, check=True, capture_output=True, text=True, cwd=top)
    shutil.rmtree(folder / "big")
    return int(done.stdout) / 1024


def small(stage: Stage) -> Path:
    """Return an archive of a few files."""
    path = stage.folder / "small.tar"
    source = stage.layers("minimal")[0]
    owner = ["--owner=0", "--group=0", "--numeric-owner"]
    subprocess.run(["tar", *owner, "-C", source, "-cf", path, "."], check=True)
    return path


def measure(stage: Stage) -> Result:
    """Measure everything in turn."""
    tar = essential(CACHE) if stage.effort.debian else small(stage)
    result, folder = Result(), stage.folder / "layers"
    folder.mkdir()
    with engine_with(tar, folder) as (engine, layer):
        ours = Ours(engine, layer)
        candidates: dict[str, Callable[[], float]] = {"unpack": ours.unpack, "pack": ours.pack}
        if shutil.which("umoci"):
            theirs = Theirs(engine.store.root, tar, folder)
            candidates |= theirs.candidates()
        else:
            result.refused["umoci"] = "not installed"
        turns = [partial(timed, name, act) for name, act in candidates.items()]
        for name, column in interleaved(stage.effort.rounds, turns).items():
            result.add({name: column}, beside=BESIDE.get(name, ""))
    peak = peak_mb(folder, stage.effort.large_file_bytes)
    size_mb = stage.effort.large_file_bytes >> 20
    result.add({f"peak of memory, a file of {size_mb} MB": [peak]}, unit="MB")
    return result


def timed(name: str, act: Callable[[], float]) -> Samples:
    """Return the milliseconds that a candidate has measured."""
    return {name: [act() * 1e3]}
