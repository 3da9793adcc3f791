"""The spare: an init that is born before anybody asks, and becomes whatever is asked for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from features import needs
from polling import becomes_true, wait_until
from process_table import (
    children_of,
    inits_of,
    is_alive,
    links_of,
    nursery_of,
    only_child_of,
    spares_of,
)

from pytest_rootfs.engine import Engine
from pytest_rootfs.runtime.spec import ContainerOptions

LONG_AFTER_S = 0.2
"""Where there is one, a spare is born within some milliseconds."""

PROGRAM = """
import sys, time
from pathlib import Path
from pytest_rootfs.engine import Engine, EngineSettings
engine = Engine(EngineSettings(store=Path(sys.argv[1]), makes_ahead=False), warn=print)
engine.start("scratch").close()
print(engine.session._process.pid, flush=True)
time.sleep(60)
"""

CRAMPED = """
import resource, sys
from pathlib import Path
from pytest_rootfs.engine import Engine, EngineSettings
from pytest_rootfs.errors import ContainerError
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
engine = Engine(EngineSettings(store=Path(sys.argv[1]), makes_ahead=True), warn=print)
started = []
try:
    while len(started) < 40:
        started.append(engine.start("minimal"))
except ContainerError as error:
    print(error)
for container in started:
    container.run(["true"])
    container.restart()
started.pop().close()
engine.start("minimal").run(["true"])
engine.close()
"""

OVERLOADED = """
import resource, sys
from pathlib import Path
from pytest_rootfs.engine import Engine, EngineSettings
from pytest_rootfs.errors import ContainerError
from pytest_rootfs.runtime.spec import ContainerOptions, Mount
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
engine = Engine(EngineSettings(store=Path(sys.argv[1]), makes_ahead=False), warn=print)
started = [engine.start("minimal") for _ in range(5)]
mounts = tuple(Mount(source=Path("/etc"), target=f"/mnt/{n}", is_readonly=True) for n in range(70))
try:
    engine.start("minimal", options=ContainerOptions(mounts=mounts))
except ContainerError as error:
    print(error)
for container in started:
    container.run(["true"])
engine.close()
"""

LIMITED = """
import sys
from pathlib import Path
from pytest_rootfs.engine import Engine, EngineSettings
engine = Engine(EngineSettings(store=Path(sys.argv[1]), makes_ahead=True), warn=print)
with engine.start("scratch"):
    engine.start("scratch").close()
    Path("/proc/sys/user/max_net_namespaces").write_text("2")
    for _ in range(5):
        engine.start("scratch").close()
engine.close()
"""

EXHAUSTED = """
import sys
from pathlib import Path
from pytest_rootfs.engine import Engine, EngineSettings
from pytest_rootfs.errors import HostUnsupported
engine = Engine(EngineSettings(store=Path(sys.argv[1]), makes_ahead=False), warn=print)
with engine.start("scratch"):
    Path("/proc/sys/user/max_net_namespaces").write_text("1")
    try:
        both = engine.start("scratch"), engine.start("scratch")  # one may be a spare's
    except HostUnsupported as error:
        print(error)
engine.close()
"""


def finished(engine: Engine, text: str) -> str:
    """Run a program to its end, on the store of an engine; return what it has printed."""
    argv = [sys.executable, "-c", text, str(engine.store.root)]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout


def spawner_of(engine: Engine) -> int:
    return only_child_of(engine.session._process.pid)


def wait_for_spare(engine: Engine) -> int:
    """Wait for the spare that follows on a container; return its pid."""
    engine.start("minimal").close()
    spawner = spawner_of(engine)
    # for a moment there may be an older one, of another kind
    wait_until(lambda: len(spares_of(spawner)) == 1 and not inits_of(spawner))
    (spare,) = spares_of(spawner)
    return spare


@needs("second core")
def test_spare_becomes_the_next_container(engine: Engine) -> None:
    spare = wait_for_spare(engine)

    with engine.start("minimal") as container:
        assert container.pid == spare
        assert container.run("echo $$").stdout == "2\n"


@needs("second core")
def test_spare_becomes_a_container_of_a_new_plan(engine: Engine) -> None:
    spare = wait_for_spare(engine)
    keywords = {"hostname": f"named-{spare}", "tmpfs": [("/cache", "1m")]}
    options = ContainerOptions.from_keywords(keywords)

    with engine.start("minimal", options=options) as container:
        assert container.pid == spare
        assert container.run("hostname").stdout == f"named-{spare}\n"
        assert " /cache tmpfs " in container.run("cat /proc/mounts").stdout


@needs("second core")
def test_spare_has_no_control_groups_yet(engine: Engine) -> None:
    spare = wait_for_spare(engine)

    groups = [
        {line.partition(":")[2] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()}
        for pid in (spawner_of(engine), spare)
    ]

    assert groups[0] == groups[1]


@needs("second core")
def test_other_namespaces_make_another_one(engine: Engine) -> None:
    spare = wait_for_spare(engine)

    with engine.start("minimal", options=ContainerOptions(network="host")) as container:
        assert container.pid != spare
        wait_until(lambda: not is_alive(spare))
        assert container.run(["true"]).returncode == 0


@pytest.mark.slow
@needs("second core")
def test_killed_spare_costs_no_container(engine: Engine) -> None:
    for _ in range(10):
        spare = wait_for_spare(engine)

        os.kill(spare, signal.SIGKILL)  # it dies a moment later

        with engine.start("minimal") as container:
            assert container.pid != spare
            assert container.run(["true"]).returncode == 0


@needs("root")
def test_ended_init_holds_no_namespaces(engine: Engine) -> None:
    with engine.start("minimal") as container:
        spawner = spawner_of(engine)
        held = os.readlink(f"/proc/{container.pid}/ns/mnt")

        os.kill(container.pid, signal.SIGKILL)

        wait_until(lambda: held not in links_of(spawner))


@pytest.mark.slow
def test_spare_leaves_descriptors_to_containers(engine: Engine) -> None:
    assert "too many files are open to hand over" in finished(engine, CRAMPED)


@needs("second core")
def test_spare_outlives_its_nursery(engine: Engine) -> None:
    spare = wait_for_spare(engine)

    os.kill(nursery_of(spawner_of(engine)), signal.SIGKILL)

    with engine.start("minimal") as container:
        assert container.pid == spare
    assert wait_for_spare(engine) != spare


@needs("second core", "root", "strace")
def test_unreported_init_is_ended(engine: Engine) -> None:
    wait_for_spare(engine)
    spawner = spawner_of(engine)
    nursery = nursery_of(spawner)
    inject = ["-e", "trace=sendmsg", "-e", "inject=sendmsg:signal=KILL:when=1"]
    with subprocess.Popen(["strace", "-qq", "-o", os.devnull, *inject, "-p", str(nursery)]):
        wait_until(lambda: "TracerPid:\t0\n" not in Path(f"/proc/{nursery}/status").read_text())
        with engine.start("minimal"):
            wait_until(lambda: not is_alive(nursery))
            (unknown,) = spares_of(spawner)

    with engine.start("minimal") as container:
        assert container.pid != unknown
        assert unknown not in children_of(spawner)


@pytest.fixture
def program(engine: Engine) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(*wrapper: str) -> subprocess.Popen[str]:
        argv = [*wrapper, sys.executable, "-c", PROGRAM, str(engine.store.root)]
        started.append(subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd="/"))
        return started[-1]

    yield start
    for each in started:
        each.kill()
        each.communicate()


def spawner_in(program: subprocess.Popen[str]) -> int:
    assert program.stdout is not None
    return only_child_of(int(program.stdout.readline()))


@pytest.mark.slow
@needs("second core")
def test_spare_dies_with_its_spawner(program: Callable[..., subprocess.Popen[str]]) -> None:
    started = program()
    spawner = spawner_in(started)
    wait_until(lambda: spares_of(spawner))
    below = children_of(spawner)

    started.kill()

    wait_until(lambda: not any(map(is_alive, below)))


@pytest.mark.slow
def test_call_without_descriptors_ends_no_session(engine: Engine) -> None:
    assert "too many files are open to hand over" in finished(engine, OVERLOADED)


@pytest.mark.slow
@needs("second core")
def test_spare_and_remains_make_room(tmp_path: Path) -> None:
    argv = ["unshare", "-Ur", sys.executable, "-c", LIMITED, str(tmp_path / "store")]

    done = subprocess.run(argv, check=False, capture_output=True, text=True, cwd="/")

    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_limit_that_is_reached_is_named(tmp_path: Path) -> None:
    argv = ["unshare", "-Ur", sys.executable, "-c", EXHAUSTED, str(tmp_path / "store")]

    done = subprocess.run(argv, check=False, capture_output=True, text=True, cwd="/")

    assert "no more net namespaces (user.max_net_namespaces=1)" in done.stdout, done.stderr
    assert "hint: sudo sysctl -w user.max_net_namespaces=15000" in done.stdout


@pytest.mark.slow
def test_single_core_has_none(program: Callable[..., subprocess.Popen[str]]) -> None:
    spawner = spawner_in(program("taskset", "-c", str(min(os.sched_getaffinity(0)))))

    assert not becomes_true(lambda: spares_of(spawner), LONG_AFTER_S)
