"""Keeping real containers: live, dead, several, and what cannot be had."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from features import needs

from pytest_rootfs import Container, Failure, failures
from pytest_rootfs.errors import CommandFailed
from pytest_rootfs.store import oci

if TYPE_CHECKING:
    from pytest_rootfs.engine import Engine

Keep = Callable[..., Failure]

pytestmark = needs("userns")


@pytest.fixture
def engine() -> Iterator[Engine]:
    from pytest_rootfs.engine import Engine, EngineSettings

    settings = EngineSettings(store=Path(os.environ["PYTEST_ROOTFS_STORE"]))
    made = Engine(settings, warn=lambda _: None)
    yield made
    made.close()


@pytest.fixture
def keep(engine: Engine, tmp_path: Path) -> Iterator[Keep]:
    """Keep containers as a failure of a project of this test; removed at the end."""
    made: list[Failure] = []

    def call(*containers: Container) -> Failure:
        failure = failures.keep(
            engine,
            containers,
            nodeid="tests/test_x.py::test_install",
            phase="call",
            outcome="failed",
            message="assert 0",
            rootdir=tmp_path,
            timings={"call": 0.1},
        )
        made.append(failure)
        return failure

    yield call
    for failure in made:
        failures.Failures(engine.store).remove(failure.id)


def kinds(failure: Failure) -> dict[str, str]:
    return {change["path"]: change["kind"] for change in failure.changes}


def test_live_container_is_kept_and_goes_on(engine: Engine, keep: Keep) -> None:
    with engine.start("minimal", name="app") as container:
        container.path("/etc/added").write_text("1\n")
        sleeper = container.popen(["sleep", "1000"])

        failure = keep(container)

        assert kinds(failure) == {"/etc/added": "added"}
        assert [process["argv"] for process in failure.processes] == [["sleep", "1000"]]
        assert sleeper.poll() is None
        assert container.run(["cat", "/etc/added"]).stdout == "1\n"
        sleeper.kill()
        sleeper.wait()
        sleeper.close()


def test_kept_failure_is_an_image_of_base_and_change(engine: Engine, keep: Keep) -> None:
    with engine.start("minimal") as container:
        container.path("/etc/added").write_text("1\n")
        failure = keep(container)

    image = oci.read_image(engine.store, failure.manifest)

    assert image.diff_ids == (*failure.image.layers, failure.layer)
    assert image.layers[-1].size == failure.size
    assert failures.Failures(engine.store).get(failure.id) == failure
    assert failure.folder is not None
    assert json.loads((failure.folder / "failure.json").read_text())["id"] == failure.id


@pytest.mark.parametrize("is_closed", [False, True], ids=["killed", "closed"])
def test_dead_container_is_kept(engine: Engine, keep: Keep, *, is_closed: bool) -> None:
    container = engine.start("minimal")
    container.retain = True
    with pytest.raises(CommandFailed):
        container.run("echo 1 > /etc/added; echo boo; exit 3")
    container.kill()
    if is_closed:
        container.close()

    failure = keep(container)

    assert failure.main.gaps == ()
    assert kinds(failure) == {"/etc/added": "added"}
    assert failure.commands[0]["returncode"] == 3
    assert failure.manifest
    container.close()
    container.release()


def test_container_that_died_is_kept(engine: Engine, keep: Keep) -> None:
    container = engine.start("minimal")
    container.path("/etc/added").write_text("1\n")
    os.kill(container.pid, 9)

    failure = keep(container)

    assert failure.manifest
    assert kinds(failure) == {"/etc/added": "added"}
    container.close()


def test_several_containers_are_one_failure(engine: Engine, keep: Keep) -> None:
    with engine.start("minimal", name="app") as app, engine.start("scratch", name="db") as db:
        app.path("/etc/added").write_text("1\n")
        db.path("/data").write_text("2\n")
        failure = keep(app, db)

    assert [kept.name for kept in failure.containers] == ["app", "db"]
    assert failure.main.name == "app"
    assert failure.size == sum(kept.size for kept in failure.containers)
    other = failure.container("db")
    assert other is not None
    assert "/data" in [change["path"] for change in other.changes]


def test_full_disk_is_written_down(
    engine: Engine, keep: Keep, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Container) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Container, "pack_layer", refuse)
    with engine.start("minimal") as container:
        container.path("/etc/added").write_text("1\n")
        failure = keep(container)

    assert failure.main.gaps == ("files: [Errno 28] No space left on device",)
    assert (failure.manifest, failure.layer, failure.size) == ("", "", 0)
    assert kinds(failure) == {"/etc/added": "added"}
    assert "files not kept" in failures.summary_line(failure)


def test_odd_names_are_kept(engine: Engine, keep: Keep) -> None:
    name = os.fsdecode(b"/etc/\xff\n\x1b[1m")
    with engine.start("minimal") as container:
        container.path(name).write_text("1\n")
        failure = keep(container)

    read = failures.Failures(engine.store).get(failure.id)

    assert kinds(read) == {name: "added"}


def test_failure_without_users_is_entered(engine: Engine, keep: Keep) -> None:
    from pytest_rootfs.cli.sessions import start_kept

    with engine.start("minimal") as container:
        container.run("rm /etc/passwd")
        kept = keep(container).main

    with start_kept(engine, kept) as container:
        assert container.run("id -u").stdout == "0\n"
    assert (kept.user, kept.workdir) == ("0", "/")


@needs("memory")
def test_limit_that_was_hit_is_told(engine: Engine, keep: Keep) -> None:
    from pytest_rootfs.runtime.spec import ContainerOptions

    options = ContainerOptions.from_keywords({"memory": "32M"})
    with engine.start("minimal", options=options) as container:
        with pytest.raises(CommandFailed):
            container.run("a=x; while :; do a=$a$a; done")
        failure = keep(container)

    assert failure.limits["memory"] == 32 << 20
    assert "memory" in failure.main.limits_hit[0]
    assert failure.stats["oom_kills"] >= 1
