"""Run the build steps that need a container of the image so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from pytest_rootfs import settings
from pytest_rootfs.builder import BuiltImage
from pytest_rootfs.errors import BuildFailed, CommandFailed, ContainerError
from pytest_rootfs.image.steps import RunStep
from pytest_rootfs.runtime.container import Container
from pytest_rootfs.runtime.ids import Ids
from pytest_rootfs.runtime.spec import ContainerOptions


class Starter(Protocol):
    """What a build needs of the engine."""

    @property
    def ids(self) -> Ids:
        """The id maps."""

    def unpack(self, layers: Sequence[str], *, is_host: bool) -> object:
        """Unpack layers, bottom first."""

    def start_built(
        self, built: BuiltImage, *, name: str | None, options: ContainerOptions | None
    ) -> Container:
        """Start a container."""


class BuildSteps:
    """What the builder needs of the engine."""

    def __init__(self, starter: Starter) -> None:
        self._starter = starter

    @property
    def idmap(self) -> str:
        """The name of the id maps."""
        return self._starter.ids.key

    def unpack(self, layers: Sequence[str], *, is_host: bool) -> None:
        """Unpack an image's layers, bottom first, unless they are."""
        self._starter.unpack(layers, is_host=is_host)

    def run_step(self, base: BuiltImage, step: RunStep) -> str | None:
        """Run a step in a container; return the diffID of what it changed, None if nothing."""
        options = ContainerOptions(network="host" if step.network else "none")
        container = self._starter.start_built(base, name="build", options=options)
        with container:
            command = step.command if isinstance(step.command, str) else list(step.command)
            try:
                container.run(command)
            except CommandFailed as error:
                raise BuildFailed(
                    f"build step {step.shown()!r} failed with status {error.returncode}",
                    detail=error.detail,
                ) from error
            except ContainerError as error:
                raise BuildFailed(f"build step {step.shown()!r}: {error.what}") from error
            layer, entries = container.pack_layer(clamp_mtime=settings.SOURCE_DATE_EPOCH)
        return layer.digest if entries else None
