"""A frozen container stands still, whole, and goes on as it was."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from features import needs
from polling import wait_until

from pytest_rootfs.errors import CommandTimeout, ContainerDied, ContainerError
from pytest_rootfs.runtime import launch
from pytest_rootfs.runtime.container import Container
from pytest_rootfs.runtime.process import Process
from pytest_rootfs.runtime.processes import STOPPING_S
from pytest_rootfs.runtime.protocol import Message
from pytest_rootfs.runtime.records import CommandRecord
from pytest_rootfs.runtime.refusals import StandsStill
from pytest_rootfs.runtime.terms import Terms

COUNT = "while :; do echo >> /tmp/count; done"
FORK = "while :; do (read x < /dev/null; echo >> /tmp/count) & wait; done"


def count(container: Container) -> int:
    path = container.path("/tmp/count")
    return path.stat().st_size if path.exists() else 0


def is_counting(container: Container) -> bool:
    """Tell whether the count grows while it is looked at many times."""
    before = count(container)
    for _ in range(100):
        container.path("/tmp/count").exists()
    return count(container) > before


@pytest.fixture(params=[COUNT, FORK], ids=["loop", "forks"])
def counting(request: pytest.FixtureRequest, container: Container) -> Iterator[Container]:
    """Give a container in which something counts without rest."""
    process = container.popen(request.param, stdout=None, stderr=None)
    wait_until(lambda: count(container) > 10)
    yield container
    process.close()


def test_nothing_runs_while_frozen(counting: Container) -> None:
    counting.freeze()

    assert not is_counting(counting)


def test_thaw_lets_all_go_on(counting: Container) -> None:
    counting.freeze()
    before = count(counting)

    counting.thaw()

    wait_until(lambda: count(counting) > before)


def test_freeze_and_thaw_are_idempotent(counting: Container) -> None:
    counting.thaw()
    counting.freeze()
    counting.freeze()
    assert not is_counting(counting)

    counting.thaw()
    counting.thaw()
    wait_until(lambda: is_counting(counting))


def test_frozen_container_says_so(container: Container) -> None:
    container.freeze()
    assert repr(container).endswith(" frozen>")

    container.thaw()
    assert repr(container).endswith(" alive>")


@pytest.mark.parametrize("call", [Container.run, Container.popen])
def test_no_command_starts_while_frozen(
    container: Container, call: Callable[[Container, list[str]], object]
) -> None:
    container.freeze()

    with pytest.raises(ContainerError, match="is frozen: it cannot run `true`") as refusal:
        call(container, ["true"])

    assert "thaw()" in refusal.value.hint
    container.thaw()
    call(container, ["true"])


def test_init_refuses_what_slips_through(container: Container) -> None:
    container.freeze()
    container._life.is_frozen = False  # as if it was frozen a moment after the look
    container._life._standing.acquire()
    thread = threading.Thread(target=container.run, args=(["touch", "/ran"],))
    thread.start()
    wait_until(lambda: len(container.commands) == 1)
    call = launch.prepare(
        ["true"], container.defaults, env=None, cwd=None, user=None, stdio=(None,) * 3, tty=False
    )
    with pytest.raises(StandsStill):
        container._life.agent.start(call, Terms(), CommandRecord(argv=["true"]))
    assert not container.path("/ran").exists()

    container._life._go_on()
    container._life._standing.release()
    thread.join(10)

    assert container.path("/ran").exists()


def test_stopped_process_stays_stopped(container: Container) -> None:
    with container.popen(["sleep", "100"]) as stopped, container.popen(["sleep", "100"]) as going:
        stopped.send_signal(signal.SIGSTOP)
        wait_until(lambda: states(container)[stopped.pid] == "T")

        container.freeze()
        container.thaw()

        wait_until(lambda: states(container)[going.pid] == "S")
        assert states(container)[stopped.pid] == "T"
        stopped.kill()
        going.kill()


def states(container: Container) -> dict[int, str]:
    return {process["pid"]: process["state"] for process in container.processes()}


def test_files_are_at_hand_while_frozen(container: Container, tmp_path: Path) -> None:
    container.freeze()

    container.path("/file").write_text("new\n")
    container.copy_out("/file", tmp_path / "copy")

    assert (tmp_path / "copy").read_text() == "new\n"
    assert container.changes() == {"/file": "added"}
    assert "+new" in container.diff("/file")
    assert container.stats() is not None


def test_packing_does_not_thaw(counting: Container) -> None:
    counting.freeze()

    counting.pack_layer()
    counting.changes()

    assert not is_counting(counting)


def test_nothing_runs_while_packing(counting: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[bool] = []
    monkeypatch.setattr(
        counting._home, "pack_layer", lambda *_, **__: (counted.append(is_counting(counting)), 0)
    )

    counting.pack_layer()

    assert counted == [False]


def test_packing_keeps_stopped_what_was(container: Container) -> None:
    with container.popen(["sleep", "100"]) as process:
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: states(container)[process.pid] == "T")

        container.pack_layer()

        assert states(container) == {process.pid: "T"}
        process.kill()


@pytest.mark.slow
def test_timeout_kills_while_frozen(container: Container) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            container.run("echo > /begun; sleep 100", timeout=0.3)
        except CommandTimeout as failure:
            failures.append(failure)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(container.path("/begun").exists)
    container.freeze()
    thread.join(10)

    assert len(failures) == 1
    assert container.processes() == []


def test_command_under_way_ends_after_thaw(container: Container) -> None:
    done: list[str] = []
    command = "echo > /begun; while [ ! -e /end ]; do sleep 0.001; done; echo done"
    thread = threading.Thread(target=lambda: done.append(container.run(command).stdout))
    thread.start()
    wait_until(container.path("/begun").exists)

    container.freeze()
    container.path("/end").touch()
    container.thaw()
    thread.join(10)

    assert done == ["done\n"]


def test_frozen_process_can_be_killed(container: Container) -> None:
    with container.popen(["sleep", "100"]) as process:
        container.freeze()
        process.kill()

        assert process.wait(10) == -signal.SIGKILL


def test_threads_stand_still(container: Container) -> None:
    container.run("sleep 100 >/dev/null 2>&1 & sleep 100 >/dev/null 2>&1 &")

    container.freeze()

    tasks = [container.path(f"/proc/{pid}/task") for pid in states(container)]
    shown = [task / "stat" for folder in tasks for task in folder.iterdir()]
    frozen = {path.read_text().rpartition(") ")[2][0] for path in shown}
    assert frozen == {"T"} or container._life._by_group


@pytest.mark.parametrize("end", [Container.kill, Container.close])
def test_frozen_container_can_be_ended(
    counting: Container, end: Callable[[Container], None]
) -> None:
    counting.freeze()

    end(counting)

    assert not Path(f"/proc/{counting.pid}").exists()
    assert "frozen" not in repr(counting)


def test_frozen_container_can_be_restarted(counting: Container) -> None:
    counting.freeze()

    counting.restart()

    assert counting.run(["echo", "alive"]).stdout == "alive\n"
    counting.freeze()
    counting.thaw()


def test_dead_container_cannot_be_frozen(container: Container) -> None:
    container.kill()

    for call in (container.freeze, container.thaw):
        with pytest.raises(ContainerDied, match="was killed by the test"):
            call()


def test_closed_container_cannot_be_frozen(container: Container) -> None:
    container.close()

    for call in (container.freeze, container.thaw):
        with pytest.raises(ContainerDied, match="is closed"):
            call()


@needs("root")
def test_death_is_told_by_freeze(container: Container) -> None:
    os.kill(container.pid, signal.SIGKILL)

    with pytest.raises(ContainerDied, match="was ended by SIGKILL"):
        container.freeze()


def test_empty_container_can_be_frozen(empty: Container) -> None:
    empty.freeze()
    empty.thaw()

    assert empty.processes() == []


@pytest.mark.slow
def test_vfork_under_way_does_not_delay(container: Container) -> None:
    def start() -> Process:
        return container.popen("while :; do /bin/true; done", stdout=None, stderr=None)

    took_s = []
    with start() as first, start() as second:
        for _ in range(20):
            began = time.monotonic()
            container.freeze()
            took_s.append(time.monotonic() - began)
            container.thaw()
        first.kill()
        second.kill()

    assert max(took_s) < STOPPING_S


@pytest.mark.parametrize("place", ["ask", "freeze"])
@pytest.mark.parametrize("act", ["freeze", "snapshot", "commit"])
def test_interrupted_stop_lets_all_go_on(
    container: Container, monkeypatch: pytest.MonkeyPatch, act: str, place: str
) -> None:
    life = container._life
    holder, real = (life.agent, life.agent.ask) if place == "ask" else (life, life._stop)

    def interrupt(*message: Message) -> None:
        real(*message)  # init has stopped all, and nobody hears of it
        monkeypatch.setattr(holder, real.__name__, real)
        raise KeyboardInterrupt

    monkeypatch.setattr(holder, real.__name__, interrupt)
    with pytest.raises(KeyboardInterrupt):
        getattr(container, act)()

    assert not container._life.is_frozen
    assert container.run(["echo", "runs"], timeout=10).stdout == "runs\n"
