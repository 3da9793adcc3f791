"""Who dies, what happens: nothing is ever left behind, and the next container starts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from leftovers import GONE_S, left_of, session_groups
from polling import becomes_true, wait_until
from process_table import descendants_of, is_alive, only_child_of

from pytest_rootfs.engine import Engine, EngineSettings
from pytest_rootfs.errors import ContainerDied, ContainerError
from pytest_rootfs.runtime import deaths
from pytest_rootfs.runtime import session as session_module
from pytest_rootfs.runtime.container import Container
from pytest_rootfs.runtime.limit_watch import LimitWatch
from pytest_rootfs.runtime.session import Created, Session
from pytest_rootfs.runtime.spec import Limits

SESSION = """
import json, signal, sys, time
from pathlib import Path
from pytest_rootfs.engine import Engine, EngineSettings

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background of a shell
engine = Engine(EngineSettings(store=Path(sys.argv[1]), makes_ahead=True), warn=print)
engine.start("minimal").close()
containers = [engine.start("scratch"), engine.start("minimal"), engine.start("minimal")]
containers.append(engine.start("minimal"))  # handed over; one more is made ahead
sleeper = containers[1].popen(["sleep", "300"])
containers[1].run("sleep 301 >/dev/null 2>&1 &")
if engine.ids.count > 1000:
    containers[2].run(["true"], user="1000")  # for which init changes its ids, and back
warden = engine.session._process.pid
print(json.dumps({"warden": warden, "inits": [each.pid for each in containers]}), flush=True)
time.sleep(300)
"""


@pytest.fixture
def session(engine: Engine) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Start a process with two living containers; whatever is left of it dies after the test."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", SESSION, str(engine.store.root)],
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def described(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    facts: dict[str, Any] = json.loads(process.stdout.readline())
    facts["spawner"] = only_child_of(facts["warden"])
    facts["tree"] = [facts["warden"], *descendants_of(facts["warden"])]
    return facts


def kill_spawner(engine: Engine) -> Container:
    """Return a container whose spawner was killed, and which is gone."""
    container = engine.start("minimal")
    os.kill(only_child_of(engine.session._process.pid), signal.SIGKILL)
    wait_until(lambda: not is_alive(container.pid))
    return container


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_ended_pytest_leaves_nothing(
    session: Callable[[], subprocess.Popen[str]], number: signal.Signals
) -> None:
    process = session()
    facts = described(process)

    process.send_signal(number)
    process.wait()

    assert len(facts["tree"]) >= 6  # warden, spawner, two inits, two sleeps
    assert left_of(facts["warden"], facts["tree"]) == []


@pytest.mark.slow
def test_killed_spawner_leaves_nothing(session: Callable[[], subprocess.Popen[str]]) -> None:
    facts = described(session())

    os.kill(facts["spawner"], signal.SIGKILL)

    assert left_of(facts["warden"], facts["tree"]) == []


@pytest.mark.slow
def test_killed_warden_leaves_only_empty_cgroups(
    session: Callable[[], subprocess.Popen[str]], engine: Engine
) -> None:
    facts = described(session())

    os.kill(facts["warden"], signal.SIGKILL)

    wait_until(lambda: not any(map(is_alive, facts["tree"])))
    sweeper = Engine(EngineSettings(store=engine.store.root), warn=print)
    sweeper.start("scratch").close()
    sweeper.close()
    assert session_groups(facts["warden"]) == []


def test_warden_leaves_ctrl_c_to_pytest(engine: Engine) -> None:
    with engine.start("minimal") as container:
        os.kill(engine.session._process.pid, signal.SIGINT)

        container.path("/etc/left").write_text("evidence")

        assert container.changes() == {"/etc/left": "added"}
        assert container.run(["true"]).returncode == 0


def test_killed_init_ends_its_container_alone(engine: Engine) -> None:
    with engine.start("minimal") as victim, engine.start("minimal") as other:
        daemon = victim.popen(["sleep", "300"])

        os.kill(victim.pid, signal.SIGKILL)

        with pytest.raises(ContainerDied, match="ended by SIGKILL"):
            victim.run(["true"])
        with pytest.raises(ContainerDied):
            daemon.wait()
        daemon.close()
        assert other.run(["echo", "here"]).stdout == "here\n"


def test_dead_container_can_still_be_compared(engine: Engine) -> None:
    with engine.start("minimal") as container:
        container.path("/etc/left").write_text("evidence")
        os.kill(container.pid, signal.SIGKILL)

        changes = container.changes()

        assert changes == {"/etc/left": "added"}


def test_lost_spawner_is_replaced_by_the_next_start(engine: Engine) -> None:
    lost = kill_spawner(engine)

    with pytest.raises(ContainerDied):
        lost.run(["true"])
    assert repr(lost).endswith(" dead>")
    with engine.start("minimal") as fresh:
        assert fresh.run(["echo", "again"]).stdout == "again\n"
    lost.close()


@pytest.mark.slow
def test_start_that_loses_two_spawners_says_so(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def create_without_spawner(session: Session, *arguments: Any) -> Created:  # Any: passed on
        os.kill(only_child_of(session._process.pid), signal.SIGKILL)
        return create(session, *arguments)

    create = Session.create
    own = Engine(EngineSettings(store=engine.store.root), warn=print)
    monkeypatch.setattr(Session, "create", create_without_spawner)

    with pytest.raises(ContainerError, match="the process that makes containers was killed, twice"):
        own.start("scratch")

    own.close()


def test_kill_signals_inside_do_not_reach_init(engine: Engine) -> None:
    with engine.start("minimal") as container:
        for name in ("INT", "TERM", "HUP", "KILL", "USR1", "CHLD"):
            container.run(f"kill -{name} 1", check=False)
            container.run(f"kill -{name} -1", check=False)

        assert container.run(["echo", "alive"]).stdout == "alive\n"


def test_output_under_way_is_the_last(engine: Engine) -> None:
    with engine.start("minimal") as container:
        killer = threading.Thread(target=kill_when_there, args=(container, "/spoken"))
        killer.start()

        with pytest.raises(ContainerDied, match="last output:\nlast words"):
            container.run("echo last words; touch /spoken; sleep 100")

        killer.join()
        assert container.commands[-1].returncode == -signal.SIGKILL


def kill_when_there(container: Container, path: str) -> None:
    becomes_true(container.path(path).exists)
    os.kill(container.pid, signal.SIGKILL)


def test_memory_is_the_reason_of_a_death() -> None:
    watch = LimitWatch(Limits(memory=32 << 20))
    free = {"disk_free_bytes": 1, "disk_free_files": 1}
    status = {"status": signal.SIGKILL, "stats": {"oom_kills": 1}, **free}

    death = deaths.explain("box", status, watch, [])

    assert "ended by SIGKILL: out of memory: over its limit of 32.0 MiB" in death.what


def test_closed_container_cannot_be_entered(engine: Engine) -> None:
    container = engine.start("minimal")
    container.close()

    with pytest.raises(ContainerDied, match="is closed"), container:
        pass


@pytest.mark.slow
def test_warden_killed_before_its_first_call_is_told(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start_killed(fd: int) -> subprocess.Popen[bytes]:
        process = start_warden(fd)
        process.kill()
        process.wait()
        return process

    start_warden = session_module._start_warden
    own = Engine(EngineSettings(store=engine.store.root), warn=print)
    monkeypatch.setattr(session_module, "_start_warden", start_killed)

    with pytest.raises(ContainerError, match="the warden ended at its start"):
        own.start("scratch")

    monkeypatch.undo()
    own.start("scratch").close()
    own.close()


LOOP = """
import sys
from pathlib import Path
from pytest_rootfs.engine import Engine, EngineSettings

engine = Engine(EngineSettings(store=Path(sys.argv[1]), makes_ahead=True), warn=print)
engine.start("minimal").close()
print(engine.session._process.pid, flush=True)
while True:
    with engine.start("minimal") as container:
        container.run(["true"])
"""


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["pytest", "warden", "spawner"])
def test_killed_at_any_moment_leaves_no_process(engine: Engine, victim: str) -> None:
    left: list[object] = []
    for moment in range(8):
        argv = [sys.executable, "-c", LOOP, str(engine.store.root)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            warden = int(process.stdout.readline())
            spawner = only_child_of(warden)
            time.sleep(moment * 0.0013)  # anywhere in the life of a container, which takes 6 ms
            tree = [warden, *descendants_of(warden)]
            os.kill({"pytest": process.pid, "warden": warden, "spawner": spawner}[victim], 9)
            process.kill()
        becomes_true(lambda: not any(map(is_alive, tree)), GONE_S)  # noqa: B023  asked here only
        left += filter(is_alive, tree)

    sweeper = Engine(EngineSettings(store=engine.store.root, makes_ahead=False), warn=print)
    sweeper.start("scratch").close()
    sweeper.close()
    assert left == []
