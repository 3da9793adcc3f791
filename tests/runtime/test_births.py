"""The next container, made while a test runs: the same as any other, and never left behind."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from features import needs
from polling import wait_until
from process_table import inits_of, is_alive, nurseries_of, nursery_of, parent_of

from pytest_rootfs.engine import Engine, EngineSettings
from pytest_rootfs.errors import ContainerError
from pytest_rootfs.runtime.spec import ContainerOptions, Mount

LOOK_S = 0.02

pytestmark = needs("second core")


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
        return parent_of(container.pid)


def wait_for_ahead(spawner: int, count: int) -> set[int]:
    seen: list[set[int]] = [set()]

    def have_settled() -> bool:  # one that is expected no more may die in between
        seen.append(set(inits_of(spawner)))
        time.sleep(LOOK_S)
        return len(seen[-1]) == count and seen[-1] == set(inits_of(spawner))

    wait_until(have_settled)
    return seen[-1]


def wait_for_one_ahead(spawner: int) -> int:
    (pid,) = wait_for_ahead(spawner, 1)
    return pid


def one_ahead(engine: Engine) -> tuple[int, int]:
    """Have a container of `minimal` made ahead; return the pids of the spawner and its init."""
    spawner = spawner_of(engine)
    engine.start("minimal").close()
    engine.start("minimal").close()
    return spawner, wait_for_one_ahead(spawner)


def test_next_container_is_waiting(ahead: Engine) -> None:
    _, waiting = one_ahead(ahead)

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
    _, waiting = one_ahead(ahead)
    options = ContainerOptions(env={"MODE": "test"}, user="0", timeout=5)

    with ahead.start("minimal", options=options) as container:
        assert container.pid == waiting
        assert container.run("echo $MODE").stdout == "test\n"


def test_other_limits_make_another_container(ahead: Engine) -> None:
    spawner, waiting = one_ahead(ahead)

    with ahead.start("minimal", options=ContainerOptions(disk=1 << 20)) as container:
        assert container.pid != waiting
        assert container.run("dd if=/dev/zero of=/f bs=1M count=2", check=False).returncode == 1
        wait_until(lambda: waiting not in inits_of(spawner))  # killed when nobody waits


def test_killed_nursery_is_replaced(ahead: Engine) -> None:
    spawner, waiting = one_ahead(ahead)
    killed = nursery_of(spawner)

    os.kill(killed, signal.SIGKILL)

    with ahead.start("minimal") as container:
        assert container.pid == waiting
    with ahead.start("scratch"), ahead.start("minimal") as container:
        assert container.run("echo alive").stdout == "alive\n"
    assert nursery_of(spawner) != killed


@needs("root")
def test_rehearsal_enters_no_namespace(ahead: Engine) -> None:
    spawner, _ = one_ahead(ahead)

    places = [os.readlink(f"/proc/{pid}/ns/cgroup") for pid in (spawner, nursery_of(spawner))]

    assert places[0] == places[1]  # on cgroup v2, no command could enter its group from another


@pytest.mark.parametrize("fixture", ["engine", "ahead"])
def test_command_has_the_null_device_of_its_container(
    request: pytest.FixtureRequest, fixture: str
) -> None:
    with request.getfixturevalue(fixture).start("minimal") as container:
        info = container.run(["cat", "/proc/self/fdinfo/0"]).stdout
        mounts = container.run(["cat", "/proc/self/mountinfo"]).stdout

    mount_id = re.search(r"mnt_id:\s+(\d+)", info)
    assert mount_id is not None
    assert mount_id[1] in {line.split()[0] for line in mounts.splitlines()}, info


def test_dying_nursery_costs_no_container(engine: Engine) -> None:
    spawner = spawner_of(engine)

    for _ in range(20):
        for nursery in nurseries_of(spawner):  # none while the spawner has not noticed the last one
            os.kill(nursery, signal.SIGKILL)
        with engine.start("minimal") as container:
            assert inits_of(spawner) == [container.pid]


def test_killed_waiting_container_is_made_anew(ahead: Engine) -> None:
    _, waiting = one_ahead(ahead)

    os.kill(waiting, signal.SIGKILL)
    wait_until(lambda: not is_alive(waiting))

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


def test_images_in_pairs_are_learnt(ahead: Engine) -> None:
    spawner = spawner_of(ahead)
    for image in ["minimal", "minimal", "scratch", "scratch"] * 3:
        ahead.start(image).close()

    for image in ["minimal", "minimal", "scratch", "scratch"]:
        waiting = wait_for_one_ahead(spawner)
        with ahead.start(image) as container:
            assert container.pid == waiting


def test_two_wait_where_two_are_used_at_once(ahead: Engine) -> None:
    spawner = spawner_of(ahead)
    for _ in range(2):
        with ahead.start("minimal"), ahead.start("minimal"):
            pass
    waiting = wait_for_ahead(spawner, 2)

    with ahead.start("minimal") as one, ahead.start("minimal") as other:
        assert {one.pid, other.pid} == waiting
        assert one.run(["echo", "here"]).stdout == other.run(["echo", "here"]).stdout == "here\n"


def mounted(folder: Path, *targets: str) -> ContainerOptions:
    return ContainerOptions(mounts=tuple(Mount(source=folder, target=target) for target in targets))


def test_waiting_container_gets_the_mounts_of_the_call(ahead: Engine, tmp_path: Path) -> None:
    spawner = spawner_of(ahead)
    for _ in range(2):
        ahead.start("minimal", options=mounted(tmp_path, "/data")).close()
    waiting = wait_for_one_ahead(spawner)
    another = tmp_path / "another"
    another.mkdir()
    (another / "who").write_text("another")

    with ahead.start("minimal", options=mounted(another, "/data")) as container:
        assert container.pid == waiting
        assert container.run(["cat", "/data/who"]).stdout == "another"
        assert container.changes() == {}


def test_refused_mount_of_a_waiting_container_is_told(ahead: Engine, tmp_path: Path) -> None:
    spawner = spawner_of(ahead)
    (tmp_path / "below").mkdir()
    for _ in range(2):
        ahead.start("minimal", options=mounted(tmp_path, "/data", "/data/below")).close()
    wait_for_one_ahead(spawner)
    (tmp_path / "below").rmdir()

    with pytest.raises(ContainerError, match=f"cannot mount {tmp_path} on /data/below: what is"):
        ahead.start("minimal", options=mounted(tmp_path, "/data", "/data/below"))


def test_no_waiting_container_outlives_its_spawner(ahead: Engine, tmp_path: Path) -> None:
    spawner = spawner_of(ahead)
    for _ in range(3):
        ahead.start("minimal", options=mounted(tmp_path, "/data")).close()
    waiting = wait_for_one_ahead(spawner)

    os.kill(spawner, signal.SIGKILL)

    wait_until(lambda: not is_alive(waiting))


def test_container_made_on_demand_when_switched_off(engine: Engine) -> None:
    spawner = spawner_of(engine)
    for _ in range(3):
        engine.start("minimal").close()

    with engine.start("minimal") as container:
        assert inits_of(spawner) == [container.pid]
