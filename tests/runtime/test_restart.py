"""A container begins anew with its files."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from features import needs
from polling import wait_until

from pytest_rootfs.engine import Engine
from pytest_rootfs.errors import CommandFailed, ContainerDied, ContainerError
from pytest_rootfs.runtime.client import Conversation
from pytest_rootfs.runtime.container import Container
from pytest_rootfs.runtime.protocol import Message
from pytest_rootfs.runtime.spawner import KEPT_PLANS

if TYPE_CHECKING:
    from conftest import Start


def test_files_outlive_a_restart(container: Container) -> None:
    container.run("echo kept > /file; rm /etc/passwd; mkdir /etc/new")
    before = container.changes()

    container.restart()

    assert container.run(["cat", "/file"]).stdout == "kept\n"
    assert container.changes() == before
    assert set(before) == {"/file", "/etc/passwd", "/etc/new"}


def test_processes_end_with_a_restart(container: Container) -> None:
    container.run("sleep 100 >/dev/null 2>&1 &")
    old_pid = container.pid

    container.restart()

    assert container.processes() == []
    assert container.pid != old_pid
    assert not Path(f"/proc/{old_pid}").exists()
    assert Path(f"/proc/{container.pid}").exists()


def test_restart_empties_temporary_folders(start: Start) -> None:
    container = start(tmpfs=["/scratch"])
    container.run("echo > /scratch/x; echo > /dev/shm/x")

    container.restart()

    assert container.run(["ls", "/scratch", "/dev/shm"]).stdout == "/dev/shm:\n\n/scratch:\n"


def test_mounts_and_names_stay(start: Start, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("of the host")
    container = start(name="web", mounts=[(tmp_path, "/mnt/here", "rw")], env={"A": "b"})

    container.restart()

    assert container.run("hostname; echo $A; cat /mnt/here/x").stdout == "web\nb\nof the host"
    container.run("echo new > /mnt/here/x")
    assert (tmp_path / "x").read_text() == "new\n"


def test_readonly_stays_readonly(start: Start) -> None:
    container = start(readonly=True)

    container.restart()

    assert "Read-only file system" in container.run("echo > /x", check=False).stderr


def test_network_namespace_is_new_and_up(container: Container) -> None:
    def network() -> str:
        return container.path("/proc/1/ns/net").readlink().name

    container.restart()

    assert network() != os.readlink("/proc/self/ns/net")
    assert "127.0.0.1" in container.path("/proc/1/net/fib_trie").read_text()


def test_paths_outlive_a_restart(container: Container) -> None:
    path = container.path("/file")
    path.write_text("x")

    container.restart()

    assert path.read_text() == "x"


def test_restart_may_be_repeated(container: Container) -> None:
    for number in range(5):
        container.run(f"echo {number} >> /file")
        container.restart()

    assert container.path("/file").read_text() == "0\n1\n2\n3\n4\n"


def test_killed_container_can_be_restarted(container: Container) -> None:
    container.run("echo > /file")
    container.kill()

    container.restart()

    assert container.run(["ls", "/file"]).stdout == "/file\n"


@needs("root")
def test_dead_container_can_be_restarted(container: Container) -> None:
    os.kill(container.pid, signal.SIGKILL)
    with pytest.raises(ContainerDied):
        container.run(["true"])

    container.restart()

    assert container.run(["echo", "alive"]).stdout == "alive\n"


def test_closed_container_cannot_be_restarted(container: Container) -> None:
    container.close()

    with pytest.raises(ContainerDied, match="is closed"):
        container.restart()


def test_processes_of_before_were_killed(container: Container) -> None:
    with container.popen("echo said; exec sleep 100") as process:
        assert process.stdout is not None and process.stdout.readline() == "said\n"
        container.restart()

        assert process.wait(10) == -signal.SIGKILL
        assert process.poll() == -signal.SIGKILL
        process.kill()  # it has ended: nothing of the new life is hit

    assert container.commands[0].returncode == -signal.SIGKILL


def test_output_of_before_can_be_read(container: Container) -> None:
    process = container.popen("echo said; echo > /begun; exec sleep 100")
    wait_until(container.path("/begun").exists)
    container.restart()

    out, _ = process.communicate(timeout=10)

    assert (out, process.returncode) == ("said\n", -signal.SIGKILL)


def test_command_in_another_thread_is_killed(container: Container) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            container.run("echo > /begun; exec sleep 100")
        except CommandFailed as failure:
            failures.append(failure)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(container.path("/begun").exists)
    container.restart()
    thread.join(10)

    assert [str(failure).splitlines()[0] for failure in failures] == [
        "command `echo > /begun; exec sleep 100` was killed by SIGKILL"
    ]


@needs("memory")
def test_figures_go_on_after_a_restart(container: Container) -> None:
    container.run("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done")
    before = container.stats()

    container.restart()

    after = container.stats()
    assert before.cpu_s is not None and after.cpu_s is not None and after.cpu_s >= before.cpu_s
    assert after.pids == 0


@needs("pids")
def test_limits_hold_after_a_restart(start: Start) -> None:
    container = start(pids=5)

    container.restart()

    done = container.run("for i in 1 2 3 4 5 6; do sleep 100 & done", check=False)
    assert "Cannot fork" in done.stderr


@needs("disk")
def test_disk_limit_holds_after_a_restart(start: Start) -> None:
    container = start(disk="1M")

    container.restart()

    done = container.run("head -c 2M /dev/zero > /file", check=False)
    assert "No space left on device" in done.stderr


def test_container_that_cannot_restart_is_dead(start: Start, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    container = start(mounts=[(source, "/mnt/here")])
    container.run("echo > /file")
    source.rmdir()

    with pytest.raises(ContainerError, match=r"cannot mount .*source: No such file"):
        container.restart()

    assert container.changes() == {"/file": "added"}
    with pytest.raises(ContainerDied, match="dead since its restart failed") as death:
        container.run(["true"])
    assert "No such file" in death.value.detail
    source.mkdir()
    container.restart()
    assert container.path("/file").exists()


def test_init_that_fails_leaves_the_container_dead(start: Start, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.touch()
    container = start(mounts=[(source, "/mnt/here")])
    container.run("echo > /file")
    source.unlink()
    source.mkdir()  # a folder does not go onto the place of a file

    with pytest.raises(ContainerError, match="on /mnt/here: one is a folder and the other is not"):
        container.restart()

    assert not Path(f"/proc/{container.pid}").exists()
    assert container.changes() == {"/file": "added"}


def test_plan_is_sent_again_when_forgotten(container: Container, engine: Engine) -> None:
    spawner = engine.session.spawner
    plan = {"init": [], "late": [], "uid_map": [], "gid_map": []}
    for number in range(KEPT_PLANS):
        spawner.call({"op": "plan", "key": f"other-{number}", "plan": plan})

    container.restart()

    assert container.run(["echo", "alive"]).stdout == "alive\n"


def test_deletions_in_the_host_image_stay(start: Start) -> None:
    container = start("host")
    folders = ("/usr/local/etc", "/usr/local/sbin", "/usr/local/games", "/usr/local/src")
    deleted = next(folder for folder in folders if not os.listdir(folder))
    container.path(deleted).rmdir()
    container.path("/etc/new").touch()

    container.restart()

    assert not container.path(deleted).exists()
    assert container.path("/etc/new").exists()
    container.path(deleted).mkdir()


def test_command_during_a_restart_is_told_why(
    container: Container, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawner, told = engine.session.spawner, []
    ask = spawner.ask

    def meanwhile(message: Message, *fds: Sequence[int]) -> Conversation:
        if message["op"] == "restart":
            with pytest.raises(ContainerDied) as caught:
                container.run(["true"])
            told.append(caught.value.what)
        return ask(message, *fds)

    monkeypatch.setattr(spawner, "ask", meanwhile)
    container.restart()

    assert told == [f"container {container.name} is being restarted by another thread"]
    assert container.run(["echo", "alive"]).stdout == "alive\n"
