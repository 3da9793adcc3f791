"""The hooks that this plugin calls: implement them in a `conftest.py` or in a plugin.

`item` is the test that runs, also when a fixture of a wider scope asked for the container.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import TYPE_CHECKING

from pluggy import HookspecMarker

if TYPE_CHECKING:
    import pytest

    from pytest_rootfs.failures import Failure
    from pytest_rootfs.image import Image
    from pytest_rootfs.runtime.container import Container
    from pytest_rootfs.runtime.stats import Stats

hookspec = HookspecMarker("pytest")


@hookspec(firstresult=True)
def pytest_rootfs_resolve_image(config: pytest.Config, reference: str) -> Image | str | None:
    """Return the image that a reference means, or another reference; the first result counts."""


@hookspec
def pytest_rootfs_container_config(item: pytest.Item, config: MutableMapping[str, object]) -> None:
    """Change, in place, the keywords (those of the mark) that a container is about to get.

    Every keyword is there; what nobody asked for is None, and gets the default.
    """


@hookspec
def pytest_rootfs_container_started(item: pytest.Item, container: Container) -> None:
    """Look at a container that has just started; the test has not run in it yet."""


@hookspec
def pytest_rootfs_collect_failure(
    item: pytest.Item, container: Container, failure: Failure
) -> None:
    """Add files to `failure.folder`, once for each container of the test, dead or alive."""


@hookspec
def pytest_rootfs_failure_kept(config: pytest.Config, failure: Failure) -> None:
    """Learn of a failure that is now complete in the store."""


@hookspec
def pytest_rootfs_container_stopped(
    item: pytest.Item, container: Container, stats: Stats | None
) -> None:
    """Learn of a container that is closed, with its last figures where it still had some."""
