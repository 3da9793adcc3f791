"""Where descriptors run out: what nobody needs makes way, and the error says what is short."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from leftovers import session_groups
from polling import wait_until
from process_table import links_of, only_child_of

from pytest_rootfs.engine import Engine
from pytest_rootfs.errors import ContainerDied, ContainerError
from pytest_rootfs.runtime import protocol, starts
from pytest_rootfs.runtime.client import StepFailed

BEGIN = """
import resource, sys
from pathlib import Path
from pytest_rootfs.engine import Engine, EngineSettings
from pytest_rootfs.errors import HostUnsupported, RootfsError
from pytest_rootfs.runtime.spec import ContainerOptions
limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
engine = Engine(EngineSettings(store=Path(sys.argv[1]), makes_ahead=True), warn=print)
"""
MANY_PLANS = """
for number in range(40):
    options = ContainerOptions.from_keywords({"hostname": f"host-{number}"})
    engine.start("minimal", options=options).close()
engine.close()
"""
TOO_FEW = """
try:
    engine.start("minimal")
except RootfsError as error:
    print(type(error).__name__, error, sep=": ")
"""

pytestmark = pytest.mark.slow


def finished(engine: Engine, program: str, limit: int) -> str:
    """Run a program that may have so many descriptors open, on an engine's store."""
    argv = [sys.executable, "-c", BEGIN + program, str(engine.store.root), str(limit)]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(autouse=True)
def _built(engine: Engine) -> None:
    engine.start("minimal").close()


def test_init_layers_make_way(engine: Engine) -> None:
    assert finished(engine, MANY_PLANS, 80) == ""


@pytest.mark.parametrize("limit", [24, 30])
def test_shortage_is_no_property_of_the_host(engine: Engine, limit: int) -> None:
    told = finished(engine, TOO_FEW, limit)

    assert told.startswith("ContainerError: ")
    assert "ulimit -n" in told


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Leave this process so many descriptors that it may still open."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(fd) for fd in os.listdir("/proc/self/fd"))
    taken = [os.dup(0)]
    while max(taken) <= highest + count:
        taken.append(os.dup(0))
    taken.sort()
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[-1] + 1, limits[1]))
    protocol.close_all(taken[len(taken) - count :])
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        protocol.close_all(taken[: len(taken) - count])


@pytest.mark.parametrize("count", [0, 1, 2])
def test_start_for_which_pytest_has_no_descriptors_leaves_nothing(
    engine: Engine, count: int
) -> None:
    engine.start("minimal").close()
    warden = engine.session._process.pid
    spawner = only_child_of(warden)

    def kept() -> tuple[int, int]:
        groups = [path for each in session_groups(warden) for path in each.iterdir()]
        return sum(links_of(spawner).values()), sum(path.is_dir() for path in groups)

    time.sleep(0.1)  # a spare is made, what is left is given up
    before = kept()
    for _ in range(3):
        with descriptors_left(count), pytest.raises(ContainerError) as caught:
            engine.start("minimal")
        assert "ulimit -n" in caught.value.hint

    wait_until(lambda: kept() <= before)


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("act", ["restart", "reset"])
def test_restart_for_which_pytest_has_no_descriptors_keeps_the_files(
    engine: Engine, act: str, count: int
) -> None:
    with engine.start("minimal") as container:
        container.run("echo > /kept")

        with descriptors_left(count), pytest.raises(ContainerError, match="Too many open files"):
            getattr(container, act)()

        with pytest.raises(ContainerDied, match="is dead since its restart failed"):
            container.run("true")
        assert container.changes() == {"/kept": "added"}


@pytest.mark.parametrize("number", starts.SHORTAGES)
def test_shortage_comes_before_what_a_host_may_refuse(number: int) -> None:
    frame = {"step": "unshare", "errno": number, "text": "short", "subject": "unshare"}

    for error in (starts.no_session(StepFailed(frame)), starts.refused(StepFailed(frame), {})):
        assert type(error) is ContainerError
        assert error.hint


def test_spawner_that_is_killed_at_its_start_is_told_of() -> None:
    frame = {"step": "start", "errno": errno.ECHILD, "text": "killed", "subject": "spawner"}

    assert "somebody kills it" in starts.no_session(StepFailed(frame)).what


def test_frame_without_room_for_its_descriptors_is_a_shortage() -> None:
    own, far = protocol.pair()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with own, far:
        protocol.send(own, {"id": "known"}, [0])
        lowest_free = os.dup(0)
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
        try:
            with pytest.raises(protocol.NoRoom, match="Too many open files") as caught:
                protocol.receive(far)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    assert caught.value.errno == errno.EMFILE
    assert caught.value.message == {"id": "known"}


def test_closed_sockets_do_not_stop_an_end(engine: Engine) -> None:
    program = """
    import os
    container = engine.start("minimal")
    for fd in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
                os.close(int(fd))
        except OSError:
            pass
    engine.close()
    engine.start("minimal").run(["true"])
    engine.close()
    """

    assert finished(engine, program.replace("\n    ", "\n"), 1024) == ""


@pytest.mark.parametrize("call", ["run", "popen"])
def test_command_for_whose_pipes_pytest_has_no_descriptors_is_killed(
    engine: Engine, call: str
) -> None:
    with engine.start("minimal") as container:
        with descriptors_left(2), pytest.raises(ContainerError) as caught:
            getattr(container, call)(["sleep", "60"])

        assert "ulimit -n" in caught.value.hint
        assert container.processes() == []


def test_session_is_not_lost_for_want_of_descriptors(engine: Engine) -> None:
    engine.start("minimal").close()

    with descriptors_left(0):
        assert engine.session.answers
