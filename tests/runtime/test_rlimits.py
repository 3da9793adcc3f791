"""The resource limits of a command: two are the same everywhere, the rest is the host's."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_rootfs.engine import Engine
from pytest_rootfs.runtime.container import Container

WAYS = [pytest.param({}, id="vfork"), pytest.param({"tty": True}, id="fork")]
PROGRAM = """
import resource, sys
from pathlib import Path
from pytest_rootfs.engine import Engine, EngineSettings

for name, value in (pair.split("=") for pair in sys.argv[2:]):
    resource.setrlimit(getattr(resource, name), (int(value), int(value)))
engine = Engine(EngineSettings(store=Path(sys.argv[1]), makes_ahead=False), warn=print)
try:
    with engine.start("minimal") as container:
        print(container.run(["cat", "/proc/self/limits"]).stdout)
finally:
    engine.close()
"""


def limits(text: str) -> dict[str, tuple[str, str]]:
    """Return soft and hard limits by name, from /proc/<pid>/limits."""
    lines = text.strip().splitlines()[1:]
    return {line[:26].strip(): (line[26:47].strip(), line[47:68].strip()) for line in lines}


@pytest.mark.parametrize("way", WAYS)
def test_two_limits_are_the_same_everywhere(container: Container, way: dict[str, bool]) -> None:
    found = limits(container.run(["cat", "/proc/self/limits"], **way).stdout)

    assert found["Max open files"][0] == "1024"
    assert found["Max core file size"][0] == "0"


@pytest.mark.parametrize("way", WAYS)
def test_other_limits_are_the_hosts(container: Container, way: dict[str, bool]) -> None:
    host = limits(Path("/proc/self/limits").read_text())
    found = limits(container.run(["cat", "/proc/self/limits"], **way).stdout)

    assert found == {
        **host,
        "Max open files": ("1024", host["Max open files"][1]),
        "Max core file size": ("0", host["Max core file size"][1]),
    }


def test_soft_limit_can_be_raised_to_the_hard_one(container: Container) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]

    assert container.run("ulimit -n $(ulimit -Hn); ulimit -n").stdout == f"{hard}\n"


def test_hard_limit_cannot_be_raised(container: Container) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]

    done = container.run(f"ulimit -Hn {hard + 1}", check=False)

    assert done.returncode != 0


@pytest.mark.slow
def test_limits_of_the_shell_reach_a_command(engine: Engine) -> None:
    engine.start("minimal").close()
    argv = [sys.executable, "-c", PROGRAM, str(engine.store.root)]
    asked = ["RLIMIT_NOFILE=512", "RLIMIT_FSIZE=10000000", "RLIMIT_STACK=4194304"]
    done = subprocess.run([*argv, *asked], capture_output=True, text=True, check=False)

    found = limits(done.stdout)

    assert found["Max open files"] == ("512", "512"), done.stderr
    assert found["Max file size"] == ("10000000", "10000000")
    assert found["Max stack size"] == ("4194304", "4194304")
