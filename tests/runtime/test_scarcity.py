"""Where descriptors run out: what nobody needs makes way, and the error says what is short."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys

import pytest

from pytest_rootfs.engine import Engine
from pytest_rootfs.runtime import protocol

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


def test_frame_without_room_for_its_descriptors_is_a_shortage() -> None:
    own, far = protocol.pair()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with own, far:
        protocol.send(own, {}, [0])
        lowest_free = os.dup(0)
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
        try:
            with pytest.raises(OSError, match="Too many open files") as caught:
                protocol.receive(far)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    assert caught.value.errno == errno.EMFILE


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
