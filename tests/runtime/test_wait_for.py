"""Waiting ends when something holds, or as soon as it never will."""

from __future__ import annotations

import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from features import needs

from pytest_rootfs.errors import CommandNotFound, ContainerDied, ContainerError
from pytest_rootfs.runtime.container import Container
from pytest_rootfs.runtime.readiness import parse_port

if TYPE_CHECKING:
    from conftest import Start

pytestmark = pytest.mark.usefixtures("newest_is_closed")


@pytest.fixture
def server(start: Start) -> Container:
    """Give a container whose image has servers."""
    return start("busybox")


@needs("busybox")
def test_port_of_a_server_is_waited_for(server: Container) -> None:
    process = server.popen(["httpd", "-f", "-p", "8080"])

    server.wait_for(port=8080)

    server.run(["nc", "127.0.0.1", "8080"], stdin=subprocess.DEVNULL)
    process.kill()


@needs("busybox")
def test_port_of_a_daemon_is_waited_for(server: Container) -> None:
    server.popen("(while [ ! -e /go ]; do usleep 1000; done; exec httpd -p 8080) &").wait(10)
    threading.Timer(0.1, server.path("/go").touch).start()

    server.wait_for(port="8080")


@needs("busybox")
def test_waiting_does_not_connect(server: Container) -> None:
    with server.popen("echo once | nc -l -p 8080") as process:
        server.wait_for(port="8080/tcp")
        server.wait_for(port=8080)

        assert server.run("nc 127.0.0.1 8080 </dev/null").stdout == "once\n"
        assert process.wait(10) == 0


@pytest.mark.parametrize("kind", ["udp", "tcp"])
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_either_protocol_and_family(start: Start, kind: str, address: str) -> None:
    container = start(network="host")
    how = socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, how) as bound:
        bound.bind((address, 0))
        port = bound.getsockname()[1]
        if kind == "tcp":
            with pytest.raises(TimeoutError):  # bound, but it does not listen yet
                container.wait_for(port=port, timeout=0.01)
            bound.listen()

        container.wait_for(port=f"{port}/{kind}")


def test_ports_of_the_host_are_not_the_containers(container: Container) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

        with pytest.raises(TimeoutError, match=f"nothing listens on port {port}/tcp after 0.05 s"):
            container.wait_for(port=port, timeout=0.05)


@needs("busybox")
def test_timeout_says_which_ports_there_are(server: Container) -> None:
    server.run(["httpd", "-p", "8081"])
    server.wait_for(port=8081)

    with pytest.raises(TimeoutError) as late:
        server.wait_for(port=8080, timeout=0.05)

    assert isinstance(late.value, ContainerError)
    assert late.value.detail == "tcp ports that are listened on: 8081"
    assert str(pickle.loads(pickle.dumps(late.value))) == str(late.value)


@pytest.mark.usefixtures("at_once")
def test_server_that_fails_ends_the_wait(container: Container) -> None:
    process = container.popen("echo no such config >&2; exit 3", stdout=None)

    with pytest.raises(ContainerError, match=r"and never will: .* ended with exit status 3") as end:
        container.wait_for(port=8080)

    assert not isinstance(end.value, TimeoutError)
    assert "last output of `echo no such config >&2; exit 3`:\n  no such config" in end.value.detail
    assert process.communicate() == (None, "no such config\n")


def test_failed_process_beside_a_daemon_ends_nothing(container: Container) -> None:
    container.run("(while [ ! -e /go ]; do sleep 0.01; done; echo > /made) >/dev/null 2>&1 &")
    container.popen(["false"]).wait()
    threading.Timer(0.1, container.path("/go").touch).start()

    container.wait_for(path="/made")


def test_path_is_waited_for(container: Container) -> None:
    container.popen("sleep 0.05; mkdir /srv/x; sleep 100")

    container.wait_for(path="/srv/x")

    assert container.path("/srv/x").is_dir()


@pytest.mark.usefixtures("at_once")
def test_path_made_by_a_process_that_then_fails(container: Container) -> None:
    container.popen("sleep 0.05; echo > /made; exit 1")

    container.wait_for(path="/made")


def test_timeout_says_what_is_in_the_folder(container: Container) -> None:
    container.run("mkdir /srv/run; touch /srv/run/a.pid /srv/run/b.pid")

    with pytest.raises(TimeoutError, match=r"/srv/run/c\.pid does not exist after 0\.05 s") as late:
        container.wait_for(path="/srv/run/c.pid", timeout=0.05)

    assert late.value.detail == "/srv/run has: a.pid, b.pid"  # type: ignore[attr-defined]  # ours


def test_command_is_tried_until_it_succeeds(container: Container) -> None:
    container.wait_for(command="echo x >> /tries; test $(wc -l < /tries) -ge 4")

    assert container.path("/tries").read_text() == "x\n" * 4
    assert [record.returncode for record in container.commands] == [0]


@pytest.mark.slow
def test_timeout_says_how_the_command_failed(container: Container) -> None:
    with pytest.raises(TimeoutError, match=r"command `.*` does not succeed after 0\.5 s") as late:
        container.wait_for(command="echo not yet >&2; exit 7", timeout=0.5)

    assert late.value.detail == "its last try ended with exit status 7\n  not yet"  # type: ignore[attr-defined]  # ours
    assert len(container.commands) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("at_once")
def test_command_gets_what_is_left_of_the_time(container: Container) -> None:
    with pytest.raises(TimeoutError, match="does not succeed after 1 s") as late:
        container.wait_for(command="echo begun; sleep 100", timeout=1)

    assert "its only try did not end" in late.value.detail  # type: ignore[attr-defined]  # ours
    assert "begun" in late.value.detail  # type: ignore[attr-defined]  # ours
    assert (container.processes(), container.limits_hit()) == ([], [])


@pytest.mark.usefixtures("at_once")
def test_missing_program_is_told_at_once(container: Container) -> None:
    with pytest.raises(CommandNotFound, match="no program 'nonesuch'"):
        container.wait_for(command=["nonesuch"])


def test_several_conditions_must_all_hold(container: Container) -> None:
    container.popen("echo ready; while [ ! -e /go ]; do sleep 0.01; done; echo > /made; sleep 100")
    with pytest.raises(TimeoutError, match="/made does not exist"):
        container.wait_for(output="ready", path="/made", timeout=0.05)
    container.path("/go").touch()

    container.wait_for(output="ready", path="/made", command=["test", "-e", "/made"])


def test_first_look_is_at_once_and_light(container: Container) -> None:
    program = (
        "import sys, time; from pytest_rootfs.runtime.waits import until;"
        "until([], 1, subject='x'); print('tenacity' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)

    container.wait_for(path="/etc", timeout=1e-9)
    assert shown.stdout == b"False\n"


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    "wait",
    [
        lambda container: container.wait_for(path="/never"),
        lambda container: container.wait_for(port=1),
        lambda container: container.wait_for(command=["false"]),
        lambda container: container.wait_for(output="never"),
    ],
)
@needs("root")
def test_death_ends_the_wait(container: Container, wait: Callable[[Container], None]) -> None:
    container.popen("echo last words; echo > /begun; exec sleep 100")
    container.wait_for(path="/begun")
    threading.Timer(0.05, os.kill, (container.pid, signal.SIGKILL)).start()

    with pytest.raises(ContainerDied, match="was ended by SIGKILL") as death:
        wait(container)

    assert "last words" in death.value.detail


@pytest.mark.usefixtures("at_once")
def test_closed_container_is_told(container: Container) -> None:
    container.close()

    with pytest.raises(ContainerDied, match="is closed"):
        container.wait_for(path="/etc")


def test_nothing_to_wait_for_is_an_error(container: Container) -> None:
    with pytest.raises(TypeError, match="nothing to wait for: give port="):
        container.wait_for()


@pytest.mark.parametrize("port", [0, 65536, -1, True, 1.5, "http", "80/sctp", "", "8 0", "/tcp"])
def test_bad_port_is_named(container: Container, port: object) -> None:
    with pytest.raises(ValueError, match=f"port={re.escape(repr(port))} is not a port"):
        container.wait_for(port=port)  # type: ignore[arg-type]  # that is the point


def test_ports_are_numbers_with_protocols() -> None:
    assert [parse_port(port) for port in (80, "80", "80/tcp", "53/udp", 65535)] == [
        (80, "tcp"),
        (80, "tcp"),
        (80, "tcp"),
        (53, "udp"),
        (65535, "tcp"),
    ]


def test_bad_timeout_is_named(container: Container) -> None:
    with pytest.raises(ValueError, match="timeout=0 is not a number of seconds"):
        container.wait_for(path="/etc", timeout=0)


@pytest.mark.usefixtures("at_once")
def test_frozen_container_runs_no_command(container: Container) -> None:
    container.freeze()

    with pytest.raises(ContainerError, match="is frozen"):
        container.wait_for(command=["true"])
    container.wait_for(path="/etc")


def test_closed_process_is_no_reason_to_give_up(container: Container) -> None:
    container.popen("until [ -e /tmp/go ]; do :; done; touch /tmp/there").close()
    container.path("/tmp/go").touch()

    container.wait_for(path="/tmp/there", timeout=10)

    assert container.path("/tmp/there").exists()
