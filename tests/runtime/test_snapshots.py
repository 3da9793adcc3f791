"""Files of a container are kept in the store, and a container goes back to them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from features import needs

from pytest_rootfs import homes
from pytest_rootfs.engine import Engine, EngineSettings
from pytest_rootfs.errors import ContainerDied, ContainerError, LayerCorrupt
from pytest_rootfs.image import Image
from pytest_rootfs.runtime.container import Container
from pytest_rootfs.snapshots import Snapshot
from pytest_rootfs.store.collect import gc

if TYPE_CHECKING:
    from conftest import Start

CHANGE = "echo a > /a; mkdir -p /d/e; echo x > /d/e/x; rm /etc/passwd; echo new > /etc/group"
CHANGED = {
    "/a": "added",
    "/d": "added",
    "/d/e": "added",
    "/d/e/x": "added",
    "/etc/group": "modified",
    "/etc/passwd": "deleted",
}


@pytest.fixture(params=["minimal", "scratch", "host"])
def any_image(request: pytest.FixtureRequest, start: Start) -> Container:
    return start(request.param)


@pytest.fixture
def own_engine(tmp_path: Path) -> Iterator[Engine]:
    """Give an engine whose store nobody else uses."""

    def refuse(text: str) -> None:
        pytest.fail(f"the engine warned: {text}")

    engine = Engine(EngineSettings(store=tmp_path / "store", makes_ahead=False), warn=refuse)
    yield engine
    engine.close()


def test_snapshot_names_its_layers(container: Container) -> None:
    container.run(CHANGE)

    snapshot = container.snapshot("installed")

    assert snapshot.name == "installed"
    assert snapshot.image is container.image
    assert snapshot.layers == (*container.built.layers, snapshot.digest)
    assert 2048 < snapshot.size < 20000
    assert snapshot.not_kept == ()


def test_snapshot_changes_nothing(container: Container) -> None:
    process = container.popen("echo 1 > /a; read x; echo 2 > /b", stdin=-1)
    container.wait_for(path="/a")

    container.snapshot()

    process.communicate("go\n")
    assert container.changes() == {"/a": "added", "/b": "added"}


def test_same_files_have_one_digest(start: Start) -> None:
    one, two = start(), start()
    for each in (one, two):
        path = each.path("/f")
        path.write_text("same")
        os_utime(each, "/f")
        os_utime(each, "/")

    assert one.snapshot("one") == two.snapshot("two")
    assert one.snapshot().digest == one.snapshot().digest


def os_utime(container: Container, path: str) -> None:
    container.run(["touch", "-d", "@1000000000", path])


def test_reset_goes_back_to_the_image(any_image: Container) -> None:
    container = any_image
    container.path("/new").write_text("x")
    container.path("/root").mkdir(exist_ok=True)
    container.path("/root/new").write_text("x")
    old = container.id, container.name, container.pid

    container.reset()

    assert container.changes() == {}
    assert not container.path("/new").exists()
    assert (container.id, container.name) == old[:2]
    assert container.pid != old[2]


def test_reset_goes_back_to_a_snapshot(any_image: Container) -> None:
    container = any_image
    container.path("/new").write_text("before")
    snapshot = container.snapshot()
    kept = container.changes().kinds()
    container.path("/new").write_text("after")
    container.path("/newer").write_text("x")

    container.reset(snapshot)

    assert container.path("/new").read_text() == "before"
    assert not container.path("/newer").exists()
    assert container.changes() == kept
    assert kept["/new"] == "added"


def test_changes_are_against_the_image(container: Container) -> None:
    container.run(CHANGE)
    container.reset(container.snapshot())
    assert container.changes() == CHANGED

    container.run("rm -r /d /a; mkdir /d; echo b > /b; echo more >> /etc/group")

    assert container.changes() == {
        "/b": "added",
        "/d": "added",
        "/etc/group": "modified",
        "/etc/passwd": "deleted",
    }
    assert "+new\n+more\n" in container.diff("/etc/group")


def test_diff_reads_what_the_snapshot_has(container: Container) -> None:
    container.run(CHANGE)
    container.reset(container.snapshot())
    container.run("rm /d/e/x")

    assert "+new\n" in container.diff("/etc/group")
    assert "-root:" in container.diff("/etc/passwd")
    with pytest.raises(FileNotFoundError):
        container.diff("/d/e/x")


def test_undone_changes_are_none(container: Container) -> None:
    saved = container.run("cat /etc/group").stdout
    container.run("cp -a /etc/group /saved; cp -a /etc/passwd /moved; echo new > /etc/group")
    container.run("rm /etc/passwd")
    container.reset(container.snapshot())

    container.run("cp -a /saved /etc/group; cp -a /moved /etc/passwd; rm /saved /moved")

    assert container.changes() == {}
    assert container.path("/etc/group").read_text() == saved


def test_replaced_folder_hides_what_was(container: Container) -> None:
    container.run("rm -r /etc; mkdir /etc; echo > /etc/only")
    container.reset(container.snapshot())
    first = container.changes().kinds()
    container.run("rm -r /etc/only; mkdir /etc/only; echo > /etc/only/x")

    found = container.changes().kinds()

    assert first["/etc/passwd"] == "deleted"
    assert found == {**first, "/etc/only/x": "added"}
    assert "passwd" not in container.run(["ls", "/etc"]).stdout


def test_folder_over_a_file_over_a_folder(start: Start) -> None:
    """The last layer's folder is plain, as it hides only a file: the image's stays hidden."""
    container = start(Image("minimal").file("/data/file", "of the image"))
    for command in ("rm -r /data; echo > /data", "rm /data; mkdir /data"):
        container.run(command)
        container.reset(container.snapshot())

    assert container.run(["ls", "/data"]).stdout == ""
    assert container.changes() == {"/data/file": "deleted"}


def test_earlier_snapshot_after_later_one(container: Container) -> None:
    container.run("echo 1 > /f")
    one = container.snapshot()
    container.reset(one)
    container.run("echo 2 > /f; echo > /only-two")
    two = container.snapshot()

    container.reset(two)
    assert container.path("/f").read_text() == "2\n"
    container.reset(one)

    assert container.path("/f").read_text() == "1\n"
    assert container.changes() == {"/f": "added"}
    assert two.layers == (*one.layers, two.digest)


def test_unchanged_container_has_its_snapshot(container: Container) -> None:
    empty = container.snapshot()
    container.run("echo > /f")
    full = container.snapshot()
    container.reset(full)

    assert container.snapshot() == full
    assert empty.layers == container.built.layers
    container.reset(empty)
    assert container.changes() == {}


@pytest.mark.slow
def test_deep_chains_stay_mountable(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(homes, "ADDED_MAX", 12)
    for number in range(20):
        container.run(f"echo {number} > /{number}; echo {number} > /f; rm -f /{number - 2}")
        snapshot = container.snapshot()
        container.reset(snapshot)

    assert container.changes() == {"/18": "added", "/19": "added", "/f": "added"}
    assert container.path("/f").read_text() == "19\n"
    assert len(snapshot.added) == 8


@needs("disk")
def test_reset_kills_and_keeps_settings(start: Start, tmp_path: Path) -> None:
    container = start(
        name="web", mounts=[(tmp_path, "/mnt/here", "rw")], env={"A": "b"}, pids=50, disk="4M"
    )
    container.run("sleep 100 >/dev/null 2>&1 &")
    container.limits.disk = "2M"
    container.path("/mnt/here/x").write_text("outside")

    container.reset(container.snapshot())

    assert container.processes() == []
    assert container.run("hostname; echo $A; cat /mnt/here/x").stdout == "web\nb\noutside"
    assert container.limits.pids == 50
    full = container.run("head -c 3M /dev/zero > /big", check=False)
    assert "No space left" in full.stderr
    assert container.changes() == {"/big": "added"}


def test_init_layer_is_never_kept(container: Container) -> None:
    container.run("echo mine > /etc/hosts; echo x > /dev/shm/x; echo > /f")

    container.reset(container.snapshot())

    assert "localhost" in container.path("/etc/hosts").read_text()
    assert container.changes() == {"/f": "added"}


def test_frozen_container_stays_frozen(container: Container) -> None:
    container.run("echo > /f")
    container.freeze()

    snapshot = container.snapshot()

    with pytest.raises(ContainerError, match="is frozen"):
        container.run(["true"])
    container.reset(snapshot)
    assert container.run(["ls", "/f"]).stdout == "/f\n"


def test_dead_container_gives_snapshots(container: Container) -> None:
    container.run("echo > /f")
    container.kill()

    snapshot = container.snapshot()

    container.reset(snapshot)
    assert container.run(["ls", "/f"]).stdout == "/f\n"


def test_closed_container_gives_none(container: Container) -> None:
    snapshot = container.snapshot()
    container.close()

    for call in (container.snapshot, container.reset, container.fork, container.commit):
        with pytest.raises(ContainerDied, match="is closed"):
            call()
    with pytest.raises(ContainerDied, match="is closed"):
        container.reset(snapshot)


@needs("perl")
def test_sockets_are_not_kept(start: Start) -> None:
    container = start(Image("minimal").add_binary("/usr/bin/perl"))
    bind = 'socket(S, 1, 1, 0); bind(S, pack("Sa*", 1, "/listening")) or die $!'
    container.run(["perl", "-e", bind])
    container.run("echo > /f")

    snapshot = container.snapshot()

    assert snapshot.not_kept == ("`listening` is a socket",)
    container.reset(snapshot)
    assert container.changes() == {"/f": "added"}


def test_deleted_open_files_are_told(container: Container) -> None:
    process = container.popen(
        "exec 3> /tmp/gone 4< /dev/null; rm /tmp/gone; echo > /f; read x", stdin=-1
    )
    container.wait_for(path="/f")

    snapshot = container.snapshot()

    assert len(snapshot.not_kept) == 1
    assert snapshot.not_kept[0].startswith("`tmp/gone` is deleted and held open by process ")
    process.kill()


def test_foreign_snapshot_is_refused(start: Start) -> None:
    snapshot = start().snapshot("mine")
    other = start("scratch", name="other")
    other.path("/f").write_text("x")

    with pytest.raises(ContainerError, match="other cannot be reset to snapshot mine: it is of"):
        other.reset(snapshot)

    assert other.changes().kinds()["/f"] == "added"


def test_snapshot_of_another_container(start: Start) -> None:
    one, two = start(), start(env={"A": "b"})
    one.run("echo > /f")

    two.reset(one.snapshot())

    assert two.run("ls /f; echo $A").stdout == "/f\nb\n"


def test_bad_arguments_are_refused(container: Container) -> None:
    with pytest.raises(TypeError, match="is not a Snapshot"):
        container.reset("installed")  # type: ignore[arg-type]  # the test is about it
    with pytest.raises(ValueError, match="name='' is not a name"):
        container.snapshot("")
    with pytest.raises(ValueError, match="name='a b' is not a host name"):
        container.fork("a b")


def test_collection_spares_living_snapshots(own_engine: Engine) -> None:
    with own_engine.start(Image("minimal")) as container:
        container.run("echo > /f")
        snapshot = container.snapshot()

        gc(own_engine.store, retention_s=0)

        container.reset(snapshot)
        assert container.run(["ls", "/f"]).stdout == "/f\n"


def test_collected_snapshot_says_so(own_engine: Engine) -> None:
    with own_engine.start(Image("minimal")) as container:
        container.run("echo > /f")
        snapshot = container.snapshot("mine")
        own_engine.store.close()  # its lease ends, as at the end of a session
        gc(own_engine.store, retention_s=0)

        with pytest.raises(
            LayerCorrupt, match="snapshot mine cannot be used: blob sha256:"
        ) as caught:
            container.reset(snapshot)

        assert "container.commit(tag)" in caught.value.hint
        assert container.path("/f").exists()  # it lives on: nothing was killed


def test_failed_reset_leaves_the_files(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    container.run("echo > /f")
    plan = container._home._services.plan(())  # type: ignore[attr-defined]  # to break it
    broken = {**plan.content, "init": [*plan.content["init"], ["make_point", "/proc/no", "dir"]]}
    refused = dataclasses.replace(plan, key="broken", content=broken)
    monkeypatch.setattr(container._home, "_plan_on", lambda _: refused)

    with pytest.raises(ContainerError, match="make_point"):
        container.reset()

    with pytest.raises(ContainerDied, match="dead since its restart failed"):
        container.run(["true"])
    assert container.changes() == {"/f": "added"}
    container.restart()
    assert container.path("/f").exists()


def test_snapshot_is_small_to_read(container: Container) -> None:
    snapshot = container.snapshot("name")

    assert isinstance(snapshot, Snapshot)
    assert len(repr(snapshot)) < 200
    assert os.fspath(container.built.name) == "minimal"
