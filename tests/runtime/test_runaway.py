"""Runaway containers are contained: the right reason, in time, and nobody else notices.

Beside each of them a second container of the same session goes on answering.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import DEVNULL
from typing import TYPE_CHECKING

import pytest
from error_form import assert_well_formed
from features import needs
from polling import wait_until

from pytest_rootfs.errors import ArchiveRejected, CommandFailed, CommandTimeout, ContainerError
from pytest_rootfs.image import Image
from pytest_rootfs.runtime.container import Container

if TYPE_CHECKING:
    from conftest import Start

MIB = 1 << 20
ENOUGH_S = 30.0
"""How long anything here may take on a busy machine; alone, each takes a second or two."""

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def neighbour(start: Start) -> Iterator[Container]:
    """Run a command in a second container over and over; each must be answered soon."""
    container = start(name="neighbour")
    is_over = threading.Event()
    found: list[float] = []

    def ask() -> None:
        while not is_over.is_set():
            began = time.monotonic()
            container.run(["true"], timeout=ENOUGH_S)
            found.append(time.monotonic() - began)
            is_over.wait(0.01)

    thread = threading.Thread(target=ask)
    thread.start()
    yield container
    is_over.set()
    thread.join()
    assert found and max(found) < ENOUGH_S / 3
    assert container.limits_hit() == []


def failure(container: Container, command: str | list[str], **call: object) -> ContainerError:
    """Return the error of a command that goes wrong in time."""
    began = time.monotonic()
    with pytest.raises((CommandFailed, CommandTimeout)) as caught:
        container.run(command, **call)  # type: ignore[arg-type]  # `run` checks
    assert time.monotonic() - began < ENOUGH_S
    assert_well_formed(caught.value)
    return caught.value


def closes_in_time(container: Container) -> bool:
    began = time.monotonic()
    container.close()
    return time.monotonic() - began < ENOUGH_S


def answers(container: Container) -> bool:
    return bool(container.run(["echo", "here"], timeout=ENOUGH_S).stdout == "here\n")


def peak_rss_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


@needs("pids")
def test_fork_bomb_meets_the_default_limit(start: Start) -> None:
    container = start()

    error = failure(container, "b() { b | b & b; }; b")

    assert "out of processes: over its limit of 1024 (pids=…)" in error.what
    assert container.limits_hit()[0].endswith("to go over 1024")
    assert closes_in_time(container)


@needs("pids")
def test_fork_bomb_that_never_ends_is_killed_in_time(start: Start) -> None:
    container = start(pids=200)

    bomb = "while :; do (sleep 100; sleep 100) & done 2>/dev/null"  # bash tries again and again
    error = failure(container, ["bash", "-c", bomb], timeout=1)

    assert isinstance(error, CommandTimeout)
    assert [text.split(":")[0] for text in container.limits_hit()] == ["pids", "timeout"]
    assert container.processes() == []
    assert answers(container)


@needs("pids")
def test_full_process_table_is_told_by_the_next_command(start: Start) -> None:
    container = start(pids=20)

    def fill() -> None:
        for _ in range(21):
            sleeping = container.popen(["sleep", "1000"], stdout=DEVNULL, stderr=DEVNULL)
            sleeping.close()

    with pytest.raises(ContainerError, match="no more processes can be made") as caught:
        fill()
    assert_well_formed(caught.value)
    assert closes_in_time(container)


@needs("memory")
def test_memory_bomb_meets_its_limit(start: Start) -> None:
    container = start(memory="32M")

    error = failure(container, "x=$(head -c 200M /dev/zero | tail | wc -c); exit 1")

    assert "out of memory: over its limit of 32.0 MiB (memory=…)" in error.what
    assert container.limits_hit()[0].startswith("memory: the kernel killed ")
    assert answers(container)


@needs("memory")
@pytest.mark.parametrize("place", ["/tmp/x", "/dev/shm/x", "/scratch/x"])
def test_files_in_memory_meet_the_memory_limit(start: Start, place: str) -> None:
    container = start(memory="16M", tmpfs=["/scratch"])

    error = failure(container, f"head -c 60M /dev/zero > {place}")

    assert "out of memory: over its limit of 16.0 MiB (memory=…)" in error.what
    container.path(place).unlink()  # the init is outside of the limit: it can always help
    # the kernel frees it a moment later
    wait_until(lambda: container.run(["true"], check=False).returncode == 0, ENOUGH_S)
    assert answers(container)


@pytest.mark.parametrize(
    ("place", "reason", "hit"),
    [
        (
            "/tmp/x",
            "out of disk space: over its limit of 8.0 MiB (disk=…)",
            "disk: the rw layer is full at 8.0 MiB",
        ),
        (
            "/scratch/x",
            "out of space: /scratch is full at 4.0 MiB",
            "tmpfs: /scratch is full at 4.0 MiB",
        ),
        (
            "/dev/shm/x",
            "out of space: /dev/shm is full at 64.0 MiB",
            "tmpfs: /dev/shm is full at 64.0 MiB",
        ),
    ],
)
def test_disk_bomb_meets_the_limit_of_its_place(
    start: Start, place: str, reason: str, hit: str
) -> None:
    container = start(disk="8M", tmpfs=[("/scratch", "4M")])

    error = failure(container, f"head -c 100M /dev/zero > {place}")

    assert error.what.endswith(f"failed with exit status 1: {reason}")
    assert container.limits_hit() == [hit]
    assert answers(container)


def test_full_device_is_no_limit(start: Start) -> None:
    container = start(disk="8M")

    error = failure(container, "echo x > /dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        container.path("/dev/full").write_text("x")

    assert error.what.endswith("failed with exit status 1")
    assert "limit" not in str(caught.value)
    assert container.limits_hit() == []


def test_full_shared_memory_is_named(start: Start) -> None:
    container = start(disk="8M")

    with pytest.raises(OSError, match="No space left") as caught:
        container.path("/dev/shm/x").write_bytes(b"x" * 65 * MIB)

    assert "(limit 64.0 MiB of tmpfs /dev/shm)" in str(caught.value)


def test_too_many_empty_files_meet_the_disk_limit(start: Start) -> None:
    container = start(disk="8M")

    error = failure(container, "mkdir /many; cd /many; seq 20000 | xargs touch")

    assert "out of disk space: over its limit of 16384 files (disk=…)" in error.what
    assert container.limits_hit() == ["disk: the rw layer is full at 16384 files"]


def test_a_gigabyte_of_output_is_kept_in_part(start: Start) -> None:
    container = start()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew, proc(5)
    before = peak_rss_bytes()

    done = container.run("head -c 1G /dev/zero", text=False, timeout=ENOUGH_S)

    assert b"bytes left out" in done.stdout
    assert len(done.stdout) < 65 * MIB
    assert peak_rss_bytes() - before < 300 * MIB


def test_flood_of_complaints_is_ended_in_time(start: Start) -> None:
    container = start()

    error = failure(container, "yes >&2", timeout=1)

    assert isinstance(error, CommandTimeout)
    assert len(str(error)) < 5000
    assert container.limits_hit()[0].startswith("timeout: ")


def test_thousands_of_files_are_told(start: Start) -> None:
    container = start()
    container.run("mkdir /many; cd /many; seq 20000 | xargs touch", timeout=2 * ENOUGH_S)
    began = time.monotonic()

    changes = container.changes()

    assert len(changes) == 20_001
    assert time.monotonic() - began < ENOUGH_S
    assert closes_in_time(container)


DEEP = f"for i in 1 2 3; do mkdir -p {'d/' * 1000}; cd {'d/' * 1000}; done"
"""3000 levels: more than Python's recursion, a process's open files or a path of PATH_MAX take."""


def test_thousands_of_levels_are_told(start: Start) -> None:
    container = start()
    container.run(["bash", "-c", f"{DEEP}; touch bottom"], timeout=2 * ENOUGH_S)

    changes = container.changes()

    assert len(changes) == 3001
    assert max(map(len, changes)) == len("/d") * 3000 + len("/bottom")
    assert closes_in_time(container)


def test_thousands_of_levels_can_be_removed(start: Start) -> None:
    container = start()
    container.run(["bash", "-c", DEEP], timeout=2 * ENOUGH_S)

    container.run(["rm", "-rf", "/d"], timeout=ENOUGH_S)

    assert container.changes() == {}


def test_every_signal_to_every_process(start: Start) -> None:
    container = start()
    container.run("for n in $(seq 1 64); do kill -$n 1; done", check=False)
    container.run("for n in $(seq 1 64); do (kill -$n -1); done", check=False)
    container.run("kill -9 -1", check=False)

    assert answers(container)
    assert container.processes() == []


def test_process_that_ignores_signals_is_killed(start: Start) -> None:
    container = start()

    failure(container, "trap '' TERM INT HUP QUIT; while :; do sleep 0.1; done", timeout=0.5)

    assert container.processes() == []


def test_daemons_of_daemons_are_killed(start: Start) -> None:
    container = start()
    daemon = "(setsid sh -c '(setsid sleep 1000 &) & exec sleep 1000' >/dev/null 2>&1 &)"

    failure(container, f"for i in $(seq 20); do {daemon}; done; sleep 1000", timeout=1)

    assert container.processes() == []


def test_farm_of_zombies_is_cleared(start: Start) -> None:
    container = start()

    failure(container, "for i in $(seq 300); do sleep 0 & done; exec sleep 1000", timeout=2)

    assert container.processes() == []
    assert answers(container)


def test_orphaned_zombies_are_reaped(start: Start) -> None:
    container = start()
    container.run("for i in $(seq 300); do (sleep 0.01 &) ; done", timeout=ENOUGH_S)

    wait_until(lambda: container.processes() == [], ENOUGH_S)


def test_exhausted_descriptors_are_the_commands_own(start: Start) -> None:
    container = start()
    opening = "ulimit -n $(ulimit -Hn); while exec {fd}</dev/null; do :; done 2>/dev/null; true"

    container.run(["bash", "-c", opening], check=False, timeout=ENOUGH_S)

    assert answers(container)


def test_sparse_file_of_a_terabyte(start: Start) -> None:
    container = start()
    container.run(["truncate", "-s", "1T", "/tmp/x"])

    assert container.changes() == {"/tmp/x": "added"}
    assert container.path("/tmp/x").stat().st_size == 1 << 40
    assert container.limits_hit() == []


def test_sparse_file_does_not_fill_the_store(start: Start) -> None:
    container = start(disk="8M")
    container.run(["truncate", "-s", "1T", "/tmp/x"])

    with pytest.raises(ArchiveRejected) as caught:
        container.pack_layer()

    assert_well_formed(caught.value)
    assert caught.value.what == "`tmp/x` has 1024.0 GiB, and the layer may have 32.0 MiB in all"
    assert answers(container)


def test_loop_of_symlinks_is_an_error(start: Start) -> None:
    container = start()
    container.run("ln -s b /tmp/a; ln -s a /tmp/b; mkdir /tmp/d; ln -s . /tmp/d/self")

    with pytest.raises(OSError, match="Too many levels"):
        container.path("/tmp/a").read_text()
    assert len(list(container.path("/tmp/d").rglob("*"))) == 1
    assert len(container.changes()) == 4


@needs("strace")
def test_stopped_tracer_and_its_traced_process_are_killed(start: Start) -> None:
    container = start(Image("minimal").add_binary("/usr/bin/strace"))
    trace = (
        "strace -o /dev/null sh -c 'while :; do sleep 0.01; done' & sleep 0.2; kill -STOP $!; wait"
    )

    failure(container, trace, timeout=1)

    assert container.processes() == []
    assert answers(container)
