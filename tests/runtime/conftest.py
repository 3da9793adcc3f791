"""What the tests of the runtime share: one engine, and a fresh container for each test."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest
from id_hosts import Host

from pytest_rootfs.engine import Engine, EngineSettings
from pytest_rootfs.image import Image
from pytest_rootfs.runtime.container import Container
from pytest_rootfs.runtime.path import ContainerPath
from pytest_rootfs.runtime.spec import ContainerOptions

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
app:x:1000:1001:An app:/home/app:/bin/sh
other:x:1002:1002::/:/bin/sh
homeless:x:1003:1003:::/bin/sh
"""
GROUP = """\
root:x:0:
app:x:1001:
audio:x:29:app,other
video:x:44:app
staff:x:50:root
"""
SOON_S = 5.0
"""Far less than the 30 s that a wait may last, far more than it needs."""


class Start(Protocol):
    """Start a container that is closed after the test; options are the mark's keywords."""

    def __call__(
        self, image: Image | str = ..., *, name: str | None = ..., **options: object
    ) -> Container:
        """Start it."""


def fail_on_warning(text: str) -> None:
    pytest.fail(f"the engine warned: {text}")


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Give one engine to all; its store lives as long as the session."""
    settings = EngineSettings(store=tmp_path_factory.mktemp("runtime") / "store", makes_ahead=False)
    engine = Engine(settings, warn=fail_on_warning)
    engine.start("scratch").close()  # its processes are there before a test looks for leaks
    yield engine
    engine.close()


@pytest.fixture
def start(engine: Engine) -> Iterator[Start]:
    with ExitStack() as closing:

        def start(
            image: Image | str = "minimal", *, name: str | None = None, **options: object
        ) -> Container:
            checked = ContainerOptions.from_keywords(options)
            return closing.enter_context(engine.start(image, name=name, options=checked))

        yield start


@pytest.fixture
def container(start: Start) -> Container:
    return start()


@pytest.fixture
def empty(start: Start) -> Container:
    """Give a container without any file."""
    return start("scratch")


@pytest.fixture
def people(container: Container) -> Container:
    """Give a container with the users and groups of PASSWD and GROUP."""
    container.path("/etc/passwd").write_text(PASSWD)
    container.path("/etc/group").write_text(GROUP)
    home = container.path("/home/app")
    home.mkdir(parents=True)
    home.chown(0 if engine_has_one_id(container) else 1000, -1)
    return container


def engine_has_one_id(container: Container) -> bool:
    uid_map = Path(f"/proc/{container.pid}/uid_map").read_text().split()
    return uid_map[-1] == "1"


@pytest.fixture(params=["minimal", "scratch"])
def folder(request: pytest.FixtureRequest, start: Start) -> ContainerPath:
    """Give a new folder of a container, in an image with programs and in one without any file."""
    path = start(request.param).path("/place/folder")
    path.mkdir(parents=True)
    return path


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """Give a folder in place of /etc, without a file in it."""
    (tmp_path / "etc").mkdir()
    return Host(tmp_path / "etc")


@pytest.fixture
def at_once() -> Iterator[None]:
    """Fail a test that has waited, where nothing was to be waited for."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < SOON_S


@pytest.fixture
def newest_is_closed(container: Container) -> Iterator[None]:
    """Close the process that a failed wait, in a cycle with its traceback, keeps open."""
    yield
    if container._newest is not None:
        container._newest.close()
