"""The life of a container: from start to close, and how its death is told."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from features import needs
from polling import wait_until
from process_table import children_of, inits_of, is_alive, parent_of

from pytest_rootfs.engine import Engine, EngineSettings
from pytest_rootfs.errors import ContainerDied, ContainerError
from pytest_rootfs.runtime.client import Conversation, StepFailed
from pytest_rootfs.runtime.container import Container
from pytest_rootfs.runtime.protocol import Message
from pytest_rootfs.runtime.spec import ContainerOptions

if TYPE_CHECKING:
    from conftest import Start


def test_attributes_of_a_container(start: Start) -> None:
    container = start(name="web")

    assert (container.name, container.hostname) == ("web", "web")
    assert container.image.name == "minimal"
    assert Path(f"/proc/{container.pid}").is_dir()
    assert repr(container) == f"<Container {container.id} 'web' alive>"


def test_names_are_made_up_from_the_id(container: Container) -> None:
    assert container.name == f"rootfs-{container.id}"


def test_container_is_fresh(start: Start) -> None:
    start().run("echo > /left-behind")

    assert not start().path("/left-behind").exists()


def test_close_ends_everything(container: Container) -> None:
    container.run("sleep 100 >/dev/null 2>&1 &")
    container.close()

    assert not Path(f"/proc/{container.pid}").exists()
    assert container.is_closed


def in_a_fork(act: Callable[[], None]) -> None:
    """Act in a fork of this process, as multiprocessing makes them; fail if that does not work."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            act()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


def test_fork_of_pytest_ends_no_container(container: Container) -> None:
    in_a_fork(container.close)

    assert container.run(["echo", "alive"]).stdout == "alive\n"


def test_fork_of_pytest_gives_up_no_rw_layer(container: Container) -> None:
    container.path("/new").touch()
    container.retain = True
    container.close()

    in_a_fork(container.release)
    changes = container.changes()
    container.release()

    assert changes == {"/new": "added"}


def test_fork_of_pytest_ends_containers_of_its_own(start: Start) -> None:
    def start_and_close() -> None:
        own = start()
        own.close()
        assert not Path(f"/proc/{own.pid}").exists()

    in_a_fork(start_and_close)


@pytest.mark.slow
def test_fork_of_pytest_ends_no_engine(tmp_path: Path) -> None:
    engine = Engine(EngineSettings(store=tmp_path / "store"), warn=print)
    with closing(engine), engine.start("minimal") as container:
        in_a_fork(engine.close)

        assert container.run(["echo", "alive"]).stdout == "alive\n"
        with engine.start("minimal") as another:
            assert another.run(["true"]).returncode == 0


def test_close_is_idempotent(container: Container) -> None:
    container.close()
    container.close()

    assert container.is_closed


def test_block_closes(engine: Engine) -> None:
    with engine.start("minimal") as container:
        assert container in engine.containers

    assert container.is_closed
    assert container not in engine.containers


def test_closed_container_refuses(container: Container) -> None:
    path = container.path("/etc")
    container.close()

    for call in (
        lambda: container.run(["true"]),
        lambda: container.popen(["true"]),
        path.exists,
        container.stats,
        container.pack_layer,
    ):
        with pytest.raises(ContainerDied, match="is closed"):
            call()
    assert container.processes() == []


def test_kill_leaves_the_files(container: Container) -> None:
    container.run("echo > /x; sleep 100 >/dev/null 2>&1 &")
    container.kill()
    container.kill()

    assert not Path(f"/proc/{container.pid}").exists()
    assert container.changes() == {"/x": "added"}
    with pytest.raises(ContainerDied, match="was killed by the test"):
        container.run(["true"])


def test_retained_container_can_be_compared(container: Container) -> None:
    container.run("echo > /x")
    container.retain = True
    container.close()

    assert container.changes() == {"/x": "added"}
    with pytest.raises(ContainerDied, match="is closed"):
        container.run(["true"])
    container.release()


def test_release_gives_up_the_files(engine: Engine) -> None:
    container = engine.start("minimal")
    container.retain = True
    container.close()
    container.release()
    container.release()

    assert container not in engine.containers
    with pytest.raises(ContainerDied, match="rw layer given up"):
        container.changes()


def test_release_of_a_live_container_waits_for_close(engine: Engine) -> None:
    container = engine.start("minimal")
    container.retain = True
    container.release()

    assert container.run(["echo", "alive"]).stdout == "alive\n"
    container.close()
    assert container not in engine.containers


@needs("root")
def test_death_from_outside_is_told_each_time(container: Container) -> None:
    container.run("echo last words")
    os.kill(container.pid, signal.SIGKILL)

    for _ in range(3):
        with pytest.raises(ContainerDied, match="was ended by SIGKILL") as death:
            container.run(["true"])
        assert "last words" in death.value.detail


@needs("root")
def test_death_while_a_command_runs_is_told(container: Container) -> None:
    process = container.popen(["sleep", "100"])
    os.kill(container.pid, signal.SIGKILL)

    with pytest.raises(ContainerDied, match="was ended by SIGKILL"):
        process.wait(10)
    process.close()


@needs("root")
def test_dead_container_can_be_compared_and_closed(container: Container) -> None:
    container.run("echo > /x")
    os.kill(container.pid, signal.SIGKILL)
    with pytest.raises(ContainerDied):
        container.run(["true"])

    assert container.changes() == {"/x": "added"}
    container.close()
    assert container.is_closed


def test_processes_are_listed(container: Container) -> None:
    container.run("sleep 100 >/dev/null 2>&1 &")

    [process] = container.processes()

    assert process["argv"] == ["sleep", "100"]
    assert (process["ppid"], process["user"]) == (1, 0)
    assert process["state"] in "RS"


def test_long_command_lines_can_be_listed(container: Container) -> None:
    container.run(["sh", "-c", "sleep 100 >/dev/null 2>&1 &", *["\x01" * 10_000] * 20])

    assert len(container.processes()) == 1


@pytest.mark.slow
def test_eight_containers_at_once(start: Start) -> None:
    with ThreadPoolExecutor(8) as pool:
        containers = list(pool.map(lambda number: start(name=f"c{number}"), range(8)))
        names = list(pool.map(lambda c: c.run(["hostname"]).stdout.strip(), containers))

    assert names == [f"c{number}" for number in range(8)]
    assert len({container.pid for container in containers}) == 8


def test_engine_closes_its_containers(engine: Engine) -> None:
    second = Engine(EngineSettings(store=engine.settings.store), warn=pytest.fail)
    container = second.start("minimal")
    second.close()
    second.close()

    assert not Path(f"/proc/{container.pid}").exists()
    with pytest.raises(ContainerDied):
        container.run(["true"])


def test_abandoned_calls_do_not_harm_the_session(container: Container, engine: Engine) -> None:
    session = engine.session
    for _ in range(20):
        session.spawner.ask({"op": "status", "id": container.id, "wait_s": 0.01}).close()
        session.spawner.ask({"op": "upper", "id": container.id}).close()
        session.spawner.ask({"op": "upper", "id": "nonesuch"}).close()
        session._warden.ask({"op": "nonesuch"}).close()

    assert container.stats() is not None
    assert container.changes() == {}
    assert engine.session is session


def test_new_processes_after_the_old_are_lost(engine: Engine) -> None:
    second = Engine(EngineSettings(store=engine.settings.store), warn=pytest.fail)
    try:
        lost = second.start("minimal")
        process = second.session._process
        spawner = parent_of(lost.pid)
        process.kill()
        process.wait()
        wait_until(lambda: not is_alive(lost.pid) and not is_alive(spawner))
        with pytest.raises(ContainerDied):
            lost.run(["true"])

        assert second.start("minimal").run(["echo", "anew"]).stdout == "anew\n"
    finally:
        second.close()


def test_packed_layer_is_in_the_store(container: Container, engine: Engine) -> None:
    container.run("echo content > /x")

    layer, _ = container.pack_layer()

    assert layer.size > 0
    assert b"content\n" in engine.store.blobs.path(layer.digest).read_bytes()


def test_processes_go_on_after_packing(container: Container) -> None:
    container.run("sleep 100 >/dev/null 2>&1 &")

    container.pack_layer()

    assert [process["state"] in "RS" for process in container.processes()] == [True]


def test_scratch_runs_nothing_but_lives(empty: Container) -> None:
    empty.path("/file").write_text("x")

    assert empty.changes() == {"/file": "added"}
    assert empty.processes() == []


def test_scratch_is_not_the_host(start: Start) -> None:
    empty, host = start("scratch"), start("host")

    assert (empty.path("/usr").exists(), host.path("/usr").exists()) == (False, True)


class InitFirst(Conversation):
    """A start in which init is faster to tell that it failed than the spawner to tell its id."""

    late: tuple[Message, list[int]] | None = None
    is_swapped = False

    def receive(self, timeout_s: float | None = 60.0) -> tuple[Message, list[int]]:
        """Keep the first answer back, unless it is init's already, which raises."""
        if not self.is_swapped:
            self.is_swapped = True
            self.late = super().receive(timeout_s)
            return super().receive(timeout_s)
        late, self.late = self.late, None
        return super().receive(timeout_s) if late is None else late


def test_init_that_fails_at_once_is_reaped(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.start("minimal").close()
    (spawner,) = children_of(engine.session._process.pid)
    inside = [("/etc", "/mnt/o"), ("/etc/passwd", "/mnt/o/none")]
    impossible = ContainerOptions.from_keywords({"mounts": inside})
    ask = engine.session.spawner.ask

    def ask_for_failure(message: Message, *more: Any) -> Conversation:
        own = ask(message, *more)
        return InitFirst(own.socket) if message["op"] == "create" else own

    monkeypatch.setattr(engine.session.spawner, "ask", ask_for_failure)
    with pytest.raises(ContainerError, match="no such path"):
        engine.start("minimal", options=impossible)

    assert inits_of(spawner) == []


@pytest.mark.parametrize("act", ["kill", "restart", "reset"])
def test_fork_of_pytest_is_refused_what_ends_processes(container: Container, act: str) -> None:
    def is_refused() -> None:
        with pytest.raises(ContainerError, match="which has made it"):
            getattr(container, act)()

    in_a_fork(is_refused)

    assert container.run(["echo", "alive"]).stdout == "alive\n"


@pytest.mark.parametrize("act", ["close", "end"])
def test_interrupted_end_gives_up_all_the_same(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    container = engine.start("minimal")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pytest_rootfs.runtime.client.Conversation.receive", interrupt)
        patch.setattr("pytest_rootfs.runtime.agent.select.poll", interrupt)
        with pytest.raises(KeyboardInterrupt):
            getattr(container, act)()

    assert container not in engine.containers
    with pytest.raises(StepFailed, match="no such container"):
        engine.session.spawner.call({"op": "upper", "id": container.id})
