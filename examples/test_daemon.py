"""A daemon that tells its port in a file, on an image with one more program of this host."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_rootfs import Container, ContainerPath, Image, Process

DAEMON = Path(__file__).parent / "web" / "greeterd.pl"
PERL = Image("minimal").add_binary("/usr/bin/perl").copy(DAEMON, "/opt/greeterd.pl")

pytestmark = pytest.mark.container(PERL)


@pytest.fixture
def daemon(container: Container) -> Iterator[Process]:
    process = container.popen(["perl", "/opt/greeterd.pl"])
    yield process
    process.terminate()
    process.wait()


def wait_for(path: ContainerPath, timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path} after {timeout_s} s"
        time.sleep(0.01)


def test_daemon_answers_at_the_port_it_tells(container: Container, daemon: Process) -> None:
    port_file = container.path("/tmp/greeterd.port")
    wait_for(port_file)
    port = int(port_file.read_text())

    answer = container.run(["bash", "-c", f"cat < /dev/tcp/127.0.0.1/{port}"])

    assert answer.stdout == f"hello from port {port}\n"
    assert daemon.poll() is None  # it goes on


def test_daemon_goes_when_it_is_told(container: Container, daemon: Process) -> None:
    wait_for(container.path("/tmp/greeterd.port"))

    daemon.terminate()

    assert daemon.wait() == -15
