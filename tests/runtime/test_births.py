"""The next container, made while a test runs: the same as any other, and never left behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from features import needs

from pytest_rootfs.engine import Engine, EngineSettings
from pytest_rootfs.runtime.spec import ContainerOptions

pytestmark = needs("second core")
WAITING_S = 5.0


@pytest.fixture
def ahead(engine: Engine) -> Iterator[Engine]:
    """Give an engine that makes containers ahead and has learnt what follows on `minimal`."""
    settings = EngineSettings(store=engine.store.root, makes_ahead=True)
    own = Engine(settings, warn=pytest.fail)
    own.start("minimal").close()
    own.start("minimal").close()
    yield own
    own.close()


def spawner_of(engine: Engine) -> int:
    with engine.start("scratch") as container:
        status = Path(f"/proc/{container.pid}/status").read_text()
    return int(status.partition("PPid:")[2].split()[0])


def inits(spawner: int) -> set[int]:
    children = Path(f"/proc/{spawner}/task/{spawner}/children").read_text()
    return {int(pid) for pid in children.split()}


def wait_for_one_ahead(spawner: int) -> int:
    deadline = time.monotonic() + WAITING_S
    while not (waiting := inits(spawner)):
        assert time.monotonic() < deadline
    (pid,) = waiting
    return pid


def test_next_container_is_waiting(ahead: Engine) -> None:
    spawner = spawner_of(ahead)
    ahead.start("minimal").close()
    ahead.start("minimal").close()
    waiting = wait_for_one_ahead(spawner)

    with ahead.start("minimal") as container:
        assert container.pid == waiting
        assert container.run(["echo", "here"]).stdout == "here\n"


def test_waiting_container_is_fresh(ahead: Engine) -> None:
    for _ in range(5):
        with ahead.start("minimal") as container:
            assert container.changes() == {}
            assert container.processes() == []
            assert container.run("echo $$").stdout.strip() == "2"
            container.path("/etc/mark").write_text("x")


def test_environment_of_the_call_reaches_a_waiting_container(ahead: Engine) -> None:
    options = ContainerOptions(env={"MODE": "test"}, user="0", timeout=5)

    with ahead.start("minimal", options=options) as container:
        assert container.run("echo $MODE").stdout == "test\n"


def test_other_limits_make_another_container(ahead: Engine) -> None:
    spawner = spawner_of(ahead)
    ahead.start("minimal").close()
    ahead.start("minimal").close()
    waiting = wait_for_one_ahead(spawner)

    with ahead.start("minimal", options=ContainerOptions(disk=1 << 20)) as container:
        assert container.pid != waiting
        assert container.run("dd if=/dev/zero of=/f bs=1M count=2", check=False).returncode == 1
        assert waiting not in inits(spawner)


def test_killed_waiting_container_is_made_anew(ahead: Engine) -> None:
    spawner = spawner_of(ahead)
    ahead.start("minimal").close()
    ahead.start("minimal").close()
    waiting = wait_for_one_ahead(spawner)

    os.kill(waiting, signal.SIGKILL)
    while Path(f"/proc/{waiting}/stat").read_text().rpartition(") ")[2][0] != "Z":
        time.sleep(0.001)

    with ahead.start("minimal") as container:
        assert container.run(["echo", "here"]).stdout == "here\n"


def test_alternating_images_are_learnt(ahead: Engine) -> None:
    spawner = spawner_of(ahead)
    for _ in range(2):
        ahead.start("minimal").close()
        ahead.start("scratch").close()
    ahead.start("minimal").close()
    waiting = wait_for_one_ahead(spawner)

    with ahead.start("scratch") as container:
        assert container.pid == waiting


def test_container_made_on_demand_when_switched_off(engine: Engine) -> None:
    spawner = spawner_of(engine)
    for _ in range(3):
        engine.start("minimal").close()

    with engine.start("minimal") as container:
        assert inits(spawner) == {container.pid}
