"""Keeping real containers: live, dead, several, and what cannot be had."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import PIPE
from typing import TYPE_CHECKING

import keeping
import pytest
from features import needs

from pytest_rootfs import Container, Failure, failures
from pytest_rootfs.errors import CommandFailed
from pytest_rootfs.runtime.spec import ContainerOptions
from pytest_rootfs.rw_files import RwFiles
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
        made.append(keeping.keep(engine, *containers, rootdir=tmp_path))
        return made[-1]

    yield call
    for failure in made:
        keeping.forget(engine, failure)


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


def test_layer_without_room_is_written_down(
    engine: Engine, keep: Keep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RwFiles, "_max_layer_bytes", lambda *_: 5)
    with engine.start("minimal") as container:
        container.path("/etc/added").write_text("sparse")
        failure = keep(container)

    [gap] = failure.main.gaps
    assert gap.startswith("files: `etc/added` has 6 B, and the layer may have 5 B in all; it is")
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
    options = ContainerOptions.from_keywords({"memory": "32M"})
    with engine.start("minimal", options=options) as container:
        with pytest.raises(CommandFailed):
            container.run("a=x; while :; do a=$a$a; done")
        failure = keep(container)

    assert failure.limits["memory"] == 32 << 20
    assert "memory" in failure.main.limits_hit[0]
    assert failure.stats["oom_kills"] >= 1


SERVER = """
import os, socket, sys, time
server = socket.create_server(("127.0.0.1", 8080))
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
datagrams.bind(("127.0.0.1", 53))
local = socket.socket(socket.AF_UNIX)
local.bind("/srv/socket")
local.listen()
log = open("/srv/log", "w")
gone = open("/srv/gone", "w")
os.unlink("/srv/gone")
memory = os.memfd_create("memory")
print("ready", flush=True)
time.sleep(1000)
"""


@pytest.mark.slow
def test_open_files_and_sockets_are_told(engine: Engine, keep: Keep) -> None:
    python = os.path.realpath("/usr/bin/python3")
    with engine.start("host") as container:
        container.run(["mkdir", "-p", "/srv"])
        server = container.popen([python, "-c", SERVER])
        server.wait_for_output("ready")
        failure = keep(container)
        server.kill()
        server.wait()
        server.close()

    [process] = failure.processes
    targets = {each["target"] for each in process["files"]}
    assert targets >= {
        "tcp 127.0.0.1:8080 listening",
        "udp 127.0.0.1:53",
        "unix /srv/socket listening",
        "/srv/log",
        "/srv/gone (deleted)",
    }
    assert process["state"] in "RS"
    user = f"process {process['pid']} ({os.path.basename(python)})"
    assert [gap for gap in failure.main.gaps if "srv" in gap] == [
        "files: left out: `srv/socket` is a socket",
        f"files: left out: `srv/gone` is deleted and held open by {user}",
    ]


def test_mounts_are_told(engine: Engine, keep: Keep) -> None:
    options = ContainerOptions.from_keywords({"tmpfs": ["/scratch"]})
    with engine.start("minimal", options=options) as container:
        failure = keep(container)

    kinds = {each["target"]: each["type"] for each in failure.main.mounts}
    assert (kinds["/"], kinds["/proc"], kinds["/scratch"]) == ("overlay", "proc", "tmpfs")


def test_many_processes_and_files_are_bounded(engine: Engine, keep: Keep) -> None:
    text = 'exec 3</dev/null; i=10; while [ $i -lt 140 ]; do eval "exec $i<&3"; i=$((i+1)); done'
    with engine.start("minimal") as container:
        many = container.popen(["bash", "-c", f"{text}; echo ready; read x"], stdin=PIPE)
        many.wait_for_output("ready")
        crowd = "for i in $(seq 220); do sleep 1000 & done; echo ready; wait"
        sleepers = container.popen(["bash", "-c", crowd])
        sleepers.wait_for_output("ready")
        failure = keep(container)
        for process in (many, sleepers):
            process.kill()
            process.wait()
            process.close()

    first = failure.processes[0]
    assert (len(first["files"]), first["more_files"] > 30) == (100, True)
    assert len(failure.processes) == 199
    assert "processes: 23 more are not listed" in failure.main.gaps


@pytest.mark.parametrize("state", ["frozen", "alive"])
def test_container_is_left_as_it_was(engine: Engine, keep: Keep, state: str) -> None:
    with engine.start("minimal") as container:
        container.path("/etc/added").write_text("1\n")
        sleeper = container.popen(["sleep", "1000"])
        if state == "frozen":
            container.freeze()
        failure = keep(container)
        shown = repr(container)
        if state == "frozen":
            container.thaw()
        container.run("true")
        sleeper.kill()
        sleeper.wait()
        sleeper.close()

    assert state in shown
    assert kinds(failure) == {"/etc/added": "added"}
    assert failure.main.gaps == ()
    assert [each["state"] in "RS" for each in failure.processes] == [True]
