"""What must not end a container, a session or a wait: mistakes, races and hostile programs."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

import pytest
from features import needs
from polling import wait_until

from pytest_rootfs import Image
from pytest_rootfs.engine import Engine
from pytest_rootfs.errors import CommandNotExecutable, CommandTimeout, ContainerDied
from pytest_rootfs.runtime.container import Container

WAIT_S = 5.0


def open_fds(container: Container) -> int:
    return len(list(Path(f"/proc/{container.pid}/fd").iterdir()))


@pytest.mark.slow
def test_daemon_on_a_terminal_ends_alone(container: Container) -> None:
    container.run("(trap '' HUP; sleep 0.2) & sleep 0.05", tty=True)

    wait_until(lambda: container.processes() == [])
    assert container.run(["echo", "alive"]).stdout == "alive\n"


def test_broken_user_file_fails_commands_only(engine: Engine) -> None:
    image = Image.scratch().file("/etc/passwd/folder", "")
    for _ in range(4):
        with engine.start(image) as container:
            container.path("/x").write_text("1")
            assert container.path("/x").read_text() == "1"


@pytest.mark.slow
def test_command_that_hides_from_its_marker_is_killed(engine: Engine) -> None:
    from pytest_rootfs.runtime.spec import ContainerOptions

    options = ContainerOptions(capabilities=("SYS_ADMIN",))
    image = Image("minimal").add_binary("/usr/bin/unshare")
    with engine.start(image, options=options) as container:
        with pytest.raises(CommandTimeout):
            container.run(["unshare", "-C", "sleep", "1000"], timeout=0.3)

        assert container.processes() == []


def test_bad_descriptor_is_the_callers_error(container: Container) -> None:
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        container.run(["true"], stdout=999)

    assert not isinstance(caught.value, ContainerDied)
    assert container.run(["echo", "alive"]).stdout == "alive\n"


def test_two_threads_wait_for_one_process(container: Container) -> None:
    process = container.popen(["sleep", "0.05"])
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(process.wait())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    process.close()

    assert found == [0, 0]


@needs("root")  # nobody else may look at the descriptors of an init
def test_abandoned_calls_leak_no_descriptor(container: Container) -> None:
    container.path("/f").touch()
    before = open_fds(container)
    for _ in range(20):
        container._life.agent._peer.ask({"op": "open", "path": "/f", "flags": 0, "mode": 0}).close()
    container.path("/f").exists()

    wait_until(lambda: open_fds(container) <= before)


def test_unfinished_line_ends_input_of_a_terminal(container: Container) -> None:
    done = container.run(["cat"], tty=True, input="abc", timeout=WAIT_S)

    assert done.stdout == "abcabc"


def test_very_long_time_limit(container: Container) -> None:
    assert container.run(["echo", "in time"], timeout=3e6).stdout == "in time\n"


def test_magic_link_is_no_program(container: Container) -> None:
    with pytest.raises(CommandNotExecutable):
        container.run(["/proc/self/exe", "-c", "print('the host')"])


def test_failed_block_kills_the_command(container: Container) -> None:
    with pytest.raises(KeyError), container.popen(["sleep", "1000"], stdin=subprocess.PIPE):
        raise KeyError

    wait_until(lambda: container.processes() == [])
