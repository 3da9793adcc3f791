"""Starts that are killed at every step, starts by the hundred, and ends from all sides at once."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from features import needs
from polling import becomes_true, wait_until
from process_table import children_of, is_alive, links_of, nursery_of, only_child_of, stat_fields

from pytest_rootfs.engine import Engine, EngineSettings
from pytest_rootfs.errors import ContainerDied, ContainerError
from pytest_rootfs.runtime.container import Container

if TYPE_CHECKING:
    from conftest import Start

GONE_S = 10.0
STARTS = 300
AT_REST_S = 0.5
"""By then the spawner has given up what nobody waits for, and has its spare."""

ONE_START = """
import sys
from pathlib import Path
from pytest_rootfs.engine import Engine, EngineSettings

engine = Engine(EngineSettings(store=Path(sys.argv[1]), makes_ahead=False), warn=print)
print(engine.session._process.pid, flush=True)
sys.stdin.readline()
try:
    with engine.start("minimal") as container:
        container.run(["true"])
    print("started", engine.session._process.pid, flush=True)
finally:
    engine.close()
"""


def groups_of(warden: int) -> list[str]:
    walked = (
        os.path.join(top, name) for top, names, _ in os.walk("/sys/fs/cgroup") for name in names
    )
    return [path for path in walked if re.search(rf"/pytest-rootfs-[^/]*-{warden}-[^/]*$", path)]


class Traced:
    """A session under strace, whose processes are killed at a system call of their start."""

    def __init__(self, store: Path, call: str, when: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", ONE_START, str(store)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.warden = int(self.process.stdout.readline())
        self.spawner = only_child_of(self.warden)
        # before, it rehearses, and would be struck by what it does then
        wait_until(lambda: stat_fields(nursery_of(self.spawner))[:1] == ["S"])
        inject = f"inject={call}:signal=KILL:when={when}"
        argv = ["strace", "-f", "-qq", "-o", os.devnull, "-e", f"trace={call}", "-e", inject]
        pids = "-p", str(self.spawner), "-p", str(nursery_of(self.spawner))
        self.strace = subprocess.Popen([*argv, *pids])
        wait_until(self._is_traced)
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def outcome(self) -> str:
        """Return all that the session has printed, at its end."""
        out, err = self.process.communicate(timeout=60)
        return f"{out}{err}"

    def left(self) -> list[object]:
        """Return what is left of it, once all had time to end."""
        tree = [self.warden, self.spawner]

        def look() -> list[object]:
            return [*filter(is_alive, tree), *groups_of(self.warden)]

        becomes_true(lambda: not look(), GONE_S)
        return look()

    def end(self) -> None:
        """End what a failed test has left."""
        self.process.kill()
        self.process.communicate()
        self.strace.wait(GONE_S)

    def _is_traced(self) -> bool:
        traced = f"TracerPid:\t{self.strace.pid}\n"
        pids = self.spawner, nursery_of(self.spawner)
        return all(traced in Path(f"/proc/{pid}/status").read_text() for pid in pids)


@pytest.fixture
def traced(engine: Engine) -> Iterator[Callable[[str, int], Traced]]:
    engine.start("minimal").close()  # the image is built
    sessions: list[Traced] = []

    def trace(call: str, when: int) -> Traced:
        sessions.append(Traced(engine.store.root, call, when))
        return sessions[-1]

    yield trace
    for session in sessions:
        session.end()


@pytest.mark.slow
@needs("root", "strace")
@pytest.mark.parametrize(
    ("call", "when"),
    [
        ("clone3", 1),
        *(("fsopen", number) for number in (1, 3)),
        ("fsmount", 2),
        ("sendmsg", 1),  # with descriptors: the container is handed over
        *(("sendto", number) for number in (1, 2)),  # the plan is known; a command has ended
        ("setresuid", 1),
        ("move_mount", 1),
        *(("mount", number) for number in (1, 4, 12)),
        ("pivot_root", 1),
        ("umount2", 1),
        ("sethostname", 1),
        *(("prctl", number) for number in (2, 3)),
        ("unshare", 1),
    ],
)
def test_start_killed_at_any_call_leaves_nothing(
    traced: Callable[[str, int], Traced], call: str, when: int
) -> None:
    session = traced(call, when)

    outcome = session.outcome()

    assert session.left() == []
    # a sentence tells of a dead init, a dead spawner is replaced; if nobody died, this is no test
    assert "started" in outcome or re.search(r"errors\.Container(Error|Died): ", outcome), outcome
    assert f"started {session.warden}" not in outcome


@pytest.mark.slow
@needs("root", "strace")
def test_init_killed_in_its_start_is_told(traced: Callable[[str, int], Traced]) -> None:
    outcome = traced("pivot_root", 1).outcome()

    assert (
        "ContainerError: the container cannot be started: its init was ended by SIGKILL" in outcome
    )


def held(pid: int) -> Counter[str]:
    """Count the descriptors of a process by kind, and what else it holds."""
    kinds: Counter[str] = Counter()
    for target, count in links_of(pid).items():
        kinds[re.sub(r"\d+", "N", target)] += count
    kinds["mounts"] = len(Path(f"/proc/{pid}/mountinfo").read_text().splitlines())
    kinds["children"] = len(children_of(pid))  # zombies are children, too
    kinds["cgroups"] = sum(len(names) for top in groups_of(pid) for _, names, _ in os.walk(top))
    return kinds


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """What a session holds after 20 starts, and after many more; by process and kind."""

    before: dict[str, Counter[str]]
    after: dict[str, Counter[str]]
    spawner_kib: int


@pytest.fixture(scope="module")
def growth(engine: Engine) -> Growth:
    own = Engine(EngineSettings(store=engine.store.root, makes_ahead=False), warn=pytest.fail)

    def live(count: int) -> None:
        for number in range(count):
            with own.start("minimal") as container:
                if number % 10 == 0:
                    container.run("echo > /x; sleep 100 >/dev/null 2>&1 &")

    def look() -> dict[str, Counter[str]]:
        return {name: held(pid) for name, pid in pids.items()}

    live(20)
    warden = own.session._process.pid
    spawner = only_child_of(warden)
    pids = {"pytest": os.getpid(), "warden": warden, "spawner": spawner}
    time.sleep(AT_REST_S)
    before, kib = look(), private_kib(spawner)
    live(STARTS)
    # what has not gone by then, the tests tell
    becomes_true(lambda: not any(now - before[name] for name, now in look().items()))
    after, grown = look(), private_kib(spawner)
    own.close()
    return Growth(before=before, after=after, spawner_kib=grown - kib)


def private_kib(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(map(int, re.findall(r"^Private_(?:Clean|Dirty): +(\d+)", text, re.MULTILINE)))


@pytest.mark.slow
@needs("root")  # nobody else may look into the spawner
@pytest.mark.parametrize("name", ["pytest", "warden", "spawner"])
def test_hundreds_of_starts_leak_nothing(growth: Growth, name: str) -> None:
    assert growth.after[name] - growth.before[name] == Counter()


@pytest.mark.slow
@needs("root")
def test_memory_of_the_spawner_does_not_grow(growth: Growth) -> None:
    assert growth.spawner_kib < 256


def test_close_while_a_command_runs(container: Container) -> None:
    process = container.popen(["sleep", "100"])
    container.close()

    with pytest.raises(ContainerDied, match="is closed"):
        process.wait(GONE_S)
    process.close()


@pytest.mark.slow
def test_close_from_another_thread_ends_a_run(container: Container) -> None:
    closing = threading.Timer(0.1, container.close)
    closing.start()

    with pytest.raises(ContainerDied, match="is closed"):
        container.run(["sleep", "100"])

    closing.join()


def test_close_from_many_threads(start: Start) -> None:
    containers = [start() for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        done = [pool.submit(container.close) for container in containers * 4]

    assert [future.exception() for future in done] == [None] * 16
    assert not any(Path(f"/proc/{container.pid}").exists() for container in containers)


def test_kill_then_close_from_many_threads(start: Start) -> None:
    container = start()
    with ThreadPoolExecutor(8) as pool:
        done = [pool.submit(call) for call in (container.kill, container.close) * 8]

    assert [future.exception() for future in done] == [None] * 16
    assert container.is_closed


@needs("root")
def test_kill_of_a_container_whose_init_is_gone(container: Container) -> None:
    os.kill(container.pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(container.pid))

    container.kill()
    container.kill()

    assert container.changes() == {}


@needs("root")
def test_stopped_init_can_be_killed(container: Container) -> None:
    os.kill(container.pid, signal.SIGSTOP)

    container.close()

    assert not is_alive(container.pid)


def test_closed_container_is_forgotten(engine: Engine) -> None:
    with pytest.raises(ContainerError), engine.start("minimal") as container:
        raise ContainerError("of the test")

    assert container not in engine.containers


def test_process_outlives_no_container(start: Start) -> None:
    container = start()
    process = container.popen("trap '' TERM HUP; setsid sleep 1000 & sleep 1000")
    inside = children_of(container.pid)
    container.close()

    assert inside
    assert not any(map(is_alive, inside))
    process.close()
