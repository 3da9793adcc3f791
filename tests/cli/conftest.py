"""Run the command line in this process, on a store of its own or on one with a kept failure."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from keeping import forget, keep

from pytest_rootfs import cli

if TYPE_CHECKING:
    from pytest_rootfs import Container, Failure
    from pytest_rootfs.engine import Engine

SHARED_STORE = os.environ["PYTEST_ROOTFS_STORE"]
NODEID = "tests/test_app.py::test_install[a b]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a call of the command line gave."""

    status: int
    out: str
    err: str


Call = Callable[..., Result]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a project the current folder."""
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


@pytest.fixture
def store_dir(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the command line an empty store."""
    monkeypatch.setenv("PYTEST_ROOTFS_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def call(project: Path, capfd: pytest.CaptureFixture[str]) -> Call:
    """Call a verb; its output is captured at the descriptors, as containers write there."""

    def run(*words: str) -> Result:
        capfd.readouterr()
        status = cli.main(words)
        out, err = capfd.readouterr()
        return Result(status=status, out=out, err=err)

    return run


@pytest.fixture
def engine() -> Iterator[Engine]:
    """Make an engine on the suite's store, where `minimal` is built once."""
    with opened_engine() as made:
        yield made


@contextmanager
def opened_engine() -> Iterator[Engine]:
    from pytest_rootfs.engine import Engine, EngineSettings

    settings = EngineSettings(store=Path(SHARED_STORE), limits="best-effort", image_folders=())
    made = Engine(settings, warn=lambda _: None)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def kept_failure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Failure, Path]]:
    """Keep a failed container with one change of each kind; with its project folder."""
    from pytest_rootfs import Image

    rootdir = tmp_path_factory.mktemp("failed-project")
    image = (
        Image("minimal")
        .file("/srv/app.conf", "".join(f"line {number}\n" for number in range(100)))
        .file("/srv/old.txt", "to be deleted\n")
        .file("/srv/blob", "binary\0one")
        .file("/srv/script", "#!/bin/sh\n")
        .env(FROM_IMAGE="1")
    )
    with opened_engine() as engine:
        from pytest_rootfs.runtime.spec import ContainerOptions

        wanted = {"workdir": "/srv", "env": {"FROM_MARK": "2"}, "user": "nobody"}
        container = engine.start(image, name="app", options=ContainerOptions.from_keywords(wanted))
        change_everything(container)
        message = "assert 'conf' == 'config'"
        failure = keep(engine, container, rootdir=rootdir, nodeid=NODEID, message=message)
        container.close()
    yield failure, rootdir
    with opened_engine() as engine:
        forget(engine, failure)


def change_everything(container: Container) -> None:
    srv = container.path("/srv")
    lines = (srv / "app.conf").read_text().replace("line 50\n", "line fifty\n")
    (srv / "app.conf").write_text(lines)
    (srv / "new dir").mkdir()
    (srv / "new dir" / "new.txt").write_text("first\nsecond without end")
    (srv / "blob").write_bytes(b"binary\0two!")
    (srv / "script").chmod(0o755)
    (srv / "link").symlink_to("/etc/passwd")
    (srv / "old.txt").unlink()
    container.run("echo said; echo complained >&2; exit 3", check=False, user="root")


@pytest.fixture
def failed(
    kept_failure: tuple[Failure, Path], call: Call, monkeypatch: pytest.MonkeyPatch
) -> Failure:
    """Stand in the project of the kept failure."""
    failure, rootdir = kept_failure
    monkeypatch.chdir(rootdir)
    return failure


@pytest.fixture
def archive(failed: Failure, call: Call, tmp_path: Path) -> Path:
    """Export the kept failure."""
    path = tmp_path / "failure.tar"
    assert call("export", "last", str(path)).status == 0
    return path


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in another project, with another store: another machine."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "pytest.ini").touch()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("PYTEST_ROOTFS_STORE", str(tmp_path / "other-store"))
    return tmp_path / "elsewhere"
