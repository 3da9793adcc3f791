"""A second container begins with the files of another one."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from features import needs

from pytest_rootfs.engine import Engine
from pytest_rootfs.errors import ContainerDied
from pytest_rootfs.image import Image
from pytest_rootfs.runtime.container import Container

if TYPE_CHECKING:
    from conftest import Start

Fork = Callable[..., Container]


@pytest.fixture
def fork() -> Iterator[Fork]:
    """Give a way to fork a container whose fork is closed after the test."""
    with ExitStack() as closing:

        def fork(container: Container, name: str | None = None) -> Container:
            return closing.enter_context(container.fork(name))

        yield fork


@pytest.mark.parametrize("image", ["minimal", "scratch", "host"])
def test_fork_has_the_files(start: Start, fork: Fork, image: str) -> None:
    container = start(image)
    container.path("/new").write_text("x")
    container.path("/opt").mkdir(exist_ok=True)
    container.path("/opt/new").write_text("y")

    forked = fork(container)

    assert forked.path("/new").read_text() == "x"
    assert forked.path("/opt/new").read_text() == "y"
    assert forked.changes() == container.changes().kinds()
    assert forked.id != container.id


def test_forks_are_independent(container: Container, fork: Fork) -> None:
    container.run("echo 1 > /f")
    forked = fork(container)

    forked.run("echo 2 > /f; rm /etc/passwd")
    container.run("echo 3 > /f; echo > /mine")

    assert forked.path("/f").read_text() == "2\n"
    assert container.changes() == {"/f": "added", "/mine": "added"}
    assert forked.changes() == {"/f": "added", "/etc/passwd": "deleted"}


def test_fork_outlives_its_origin(container: Container, fork: Fork) -> None:
    container.run("echo 1 > /f")
    forked = fork(container)

    container.close()

    assert forked.run(["cat", "/f"]).stdout == "1\n"
    forked.reset()
    assert forked.changes() == {}


def test_fork_has_the_options(start: Start, fork: Fork, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("of the host")
    container = start(name="one", mounts=[(tmp_path, "/mnt/here")], env={"A": "b"}, workdir="/tmp")
    container.run("echo 1 > f")

    forked = fork(container, "two")

    assert forked.name == "two"
    told = forked.run("hostname; echo $A; pwd; cat f /mnt/here/x")
    assert told.stdout == "two\nb\n/tmp\n1\nof the host"


@needs("pids")
def test_fork_has_limits_of_its_own(start: Start, fork: Fork) -> None:
    container = start(pids=10)
    forked = fork(container)

    container.limits.pids = 5

    assert forked.limits.pids == 10
    assert forked.stats().pids_max_hits == 0
    assert container.run("for i in 1 2 3 4 5 6 7 8; do sleep 5 & done", check=False).returncode
    assert forked.run("for i in 1 2 3 4 5 6 7 8; do sleep 0 & done; wait").returncode == 0


def test_dead_container_is_forked(container: Container, fork: Fork) -> None:
    container.run("echo 1 > /f")
    container.kill()

    assert fork(container).run(["cat", "/f"]).stdout == "1\n"


def test_fork_of_a_fork_of_a_fork(container: Container, fork: Fork) -> None:
    each = container
    for number in range(3):
        each.run(f"echo {number} > /{number}; echo {number} >> /all")
        each = fork(each)

    snapshot = each.snapshot()

    container.reset(snapshot)
    assert container.path("/all").read_text() == "0\n1\n2\n"
    assert container.changes() == dict.fromkeys(["/0", "/1", "/2", "/all"], "added")
    assert len(snapshot.added) == 3


def test_evidence_of_a_fork_is_whole(engine: Engine, container: Container, fork: Fork) -> None:
    """One layer has all that is new since the image: a kept failure is the image and that layer."""
    container.run("echo 1 > /f; rm /etc/passwd")
    forked = fork(container)
    forked.run("echo 2 > /g")

    layer, _ = forked.pack_layer()

    with engine.start_built(forked.built, extra_layers=[layer.digest]) as shown:
        assert shown.run(["cat", "/f", "/g"]).stdout == "1\n2\n"
        assert shown.changes() == {"/f": "added", "/g": "added", "/etc/passwd": "deleted"}


def test_closed_fork_leaves_nothing(engine: Engine, container: Container) -> None:
    forked = container.fork()
    assert forked in engine.containers

    forked.close()

    assert forked not in engine.containers
    assert not Path(f"/proc/{forked.pid}").exists()
    with pytest.raises(ContainerDied):
        forked.run(["true"])


def commands(seed: int) -> list[str]:
    """Return shell commands, by chance, that make and remove things in each other's way."""
    choice = random.Random(seed).choice
    names = ["a", "b", "a/x", "a/y", "b/x", "a/x/z"]
    words = (
        "mkdir -p {0}",
        "rm -rf {0}",
        "rm -rf {0}; mkdir {0}",
        "rm -rf {0}; echo {1} > {0}",
        "echo {1} >> {0}",
        "mv -T {0} {1}",
        "ln -s {1} {0}",
        "ln {0} {1}",
        "chmod 700 {0}",
        "[ -d {0} ] || cp -a {0} {1}",  # a folder into itself: depends on the order of names
    )
    return [choice(words).format(choice(names), choice(names)) for _ in range(40)]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_stacked_layers_read_as_one(start: Start, fork: Fork, seed: int) -> None:
    image = Image("minimal").run(
        "mkdir -p /t/a/x /t/b; cd /t; echo 1 > a/x/z; echo 2 > a/y; ln -s y b/x"
    )
    plain = start(image, workdir="/t")
    stacked = start(image, workdir="/t")
    look = "find . ! -type d -printf '%p %y %m %s %l\\n' | sort; find . -type d -printf '%p %m\\n'"
    look += " | sort; find . -type f | sort | xargs -r cat"

    for number, command in enumerate(commands(seed)):
        for each in (plain, stacked):
            each.run(command, check=False)
        if number % 5 == 4:
            stacked = fork(stacked)

    assert stacked.run(look).stdout == plain.run(look).stdout
    assert stacked.changes() == plain.changes().kinds()
    assert start(stacked.commit(), workdir="/t").run(look).stdout == plain.run(look).stdout
