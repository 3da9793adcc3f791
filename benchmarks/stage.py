"""What the subjects share: how much is measured, the store, engines, the C floor."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import tempfile
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from benchmarks.floor import Floor, FloorRefused
from pytest_rootfs.engine import Engine, EngineSettings
from pytest_rootfs.image import Image
from pytest_rootfs.runtime.ids import find_ids

STORE = Path(__file__).parents[1] / ".cache" / f"store-{os.getuid()}"


class Effort(NamedTuple):
    """How much is measured."""

    rounds: int
    """How often each candidate has its turn."""
    turn: int
    """Containers of a turn."""
    commands: int
    """Runs of each other engine in a turn."""
    many: int
    """Tests of the long session."""
    depths: tuple[int, ...]
    """Numbers of layers."""
    mounts: tuple[int, ...]
    """Numbers of mounts added to the host's."""
    alive: tuple[int, ...]
    """Numbers of containers alive."""
    large_file_bytes: int
    """The file of which the peak of memory is measured."""
    debian: bool
    """Whether the layer is a Debian, which is downloaded, or a small one."""


FULL = Effort(
    rounds=5,
    turn=100,
    commands=8,
    many=10_000,
    depths=(1, 10, 128),
    mounts=(10, 1000),
    alive=(1, 100, 500),
    large_file_bytes=2 << 30,
    debian=True,
)
QUICK = Effort(
    rounds=1,
    turn=4,
    commands=1,
    many=40,
    depths=(1, 3),
    mounts=(1, 5),
    alive=(1, 3),
    large_file_bytes=32 << 20,
    debian=False,
)


class Refused(Exception):
    """A subject cannot be measured here; the text says why."""


class Stage:
    """Engines and folders, made when a subject needs them and gone at the end."""

    def __init__(self, store: Path, effort: Effort) -> None:
        self.store = store
        self.effort = effort
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Stage:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # 500 containers: 500 sockets
        self._open.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    @cached_property
    def folder(self) -> Path:
        """A temporary folder that containers' users can walk through."""
        # no TemporaryDirectory: it changes modes through the links of an unpacked root tree
        folder = Path(tempfile.mkdtemp(prefix="benchmarks-"))
        self._open.callback(shutil.rmtree, folder)
        folder.chmod(0o755)
        return folder

    @cached_property
    def cold(self) -> Engine:
        """An engine that makes every container when it is asked for."""
        return self._engine(makes_ahead=False)

    @cached_property
    def alone(self) -> Engine:
        """Another one, which is to start on a single processor."""
        return self._engine(makes_ahead=False)

    @cached_property
    def ahead(self) -> Engine:
        """An engine that makes the next container ahead."""
        return self._engine(makes_ahead=True)

    def layers(self, image: Image | str) -> list[Path]:
        """Return the folders of an image's layers, top first."""
        built = self.cold.builder.build(image)
        self.cold.start_built(built).close()  # unpacked by now
        top = self.cold.store.root / "layers" / find_ids().key
        return [top / name.removeprefix("sha256:") / "fs" for name in reversed(built.layers)]

    @cached_property
    def floor(self) -> Floor | None:
        """The C program, in the control groups of our containers; None where it cannot run."""
        self.cold.session  # noqa: B018  its folders are looked for
        try:
            floor = Floor(self.folder, self.layers("minimal"))
            floor.measure(1)
        except FloorRefused as refusal:
            self.floor_refusal = str(refusal)
            return None
        return floor

    floor_refusal = ""

    def _engine(self, *, makes_ahead: bool) -> Engine:
        settings = EngineSettings(
            store=self.store, limits="best-effort", image_folders=(), makes_ahead=makes_ahead
        )
        return self._open.enter_context(contextlib.closing(Engine(settings, warn=print)))
