"""Births that fail: another one is tried where that may do, and nothing of them is left."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from features import needs
from polling import wait_until
from process_table import inits_of, nursery_of, only_child_of, spares_of

from pytest_rootfs.engine import Engine, EngineSettings
from pytest_rootfs.errors import ContainerError
from pytest_rootfs.kernel import forks
from pytest_rootfs.runtime import births, newborn, nursery, plan, protocol
from pytest_rootfs.runtime.orders import Request
from pytest_rootfs.runtime.spec import ContainerOptions, Mount

SETTLED_S = 0.2
"""Where there is a second core, a spare is born, and fails, within some milliseconds."""


@pytest.fixture
def masked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a file of the host that each init masks first, and fails without."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:  # inits mount over /tmp first
        path = Path(folder, "masked")
        path.parent.chmod(0o755)
        path.touch()
        monkeypatch.setattr(plan, "MASKED_FILES", (*plan.MASKED_FILES, str(path).lstrip("/")))
        yield path


@pytest.fixture(params=[False])
def own(engine: Engine, masked: Path, request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Give an engine of its own: the one that tests share would keep the plan for the others."""
    assert masked.exists()
    settings = EngineSettings(store=engine.store.root, makes_ahead=request.param)
    own = Engine(settings, warn=pytest.fail)
    yield own
    own.close()


class FailingBirth:
    """A birth that cannot be told anything."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.is_spare = False
        self.times_abandoned = 0

    def tell(self, *_: object) -> None:
        """Fail."""
        raise OSError(self.number, os.strerror(self.number))

    def abandon(self) -> None:
        """Note it."""
        self.times_abandoned += 1


@pytest.mark.parametrize(
    ("number", "is_ahead", "attempts"),
    [
        (errno.EPIPE, False, 4),
        (errno.ENOSPC, False, 4),
        (errno.EINVAL, False, 1),
        (errno.EPIPE, True, 4),
        (errno.ENOSPC, True, 1),  # nobody waits for it: it takes no room, and no time
    ],
)
def test_every_birth_of_a_failed_start_is_abandoned(
    monkeypatch: pytest.MonkeyPatch, number: int, attempts: int, *, is_ahead: bool
) -> None:
    monkeypatch.setattr(births, "PAUSES_S", (0, 0, 0))
    made: list[FailingBirth] = []

    def bear(*_: object) -> FailingBirth:
        made.append(FailingBirth(number))
        return made[-1]

    closed = SimpleNamespace(close=lambda: None)
    root = SimpleNamespace(rw_layer=closed, close_start=lambda: None)
    trees: Any = SimpleNamespace(  # Any: a fake that fails
        make=lambda *_: root, make_room=lambda: None
    )
    fake: Any = SimpleNamespace(bear=bear)  # Any: as above
    own, reply = protocol.pair()

    request = Request("key", {"host_tree": -1}, reply, is_ahead=is_ahead)
    with own, reply, pytest.raises(OSError, match=os.strerror(number)):
        births.Births(trees, fake, fake)._begin(request)

    assert [birth.times_abandoned for birth in made] == [1] * attempts


def test_newborn_that_was_killed_counts_as_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def fork(_: int) -> tuple[int, int]:
        started.append(subprocess.Popen(["sleep", "60"]))
        started[-1].kill()
        return started[-1].pid, os.pidfd_open(started[-1].pid)

    monkeypatch.setattr(forks, "fork", fork)
    own, control = protocol.pair()
    near, far = protocol.pair()
    message = {"key": "", "namespaces": 0, "uid_map": "0 0 1", "gid_map": "0 0 1"}
    with own, control, near:
        nursery._bear({}, {**message, "is_spare": False}, far.detach(), control)
        answer, fds = protocol.receive(own)

    protocol.close_all(fds)
    started[0].wait()
    assert answer is not None
    assert answer["errno"] in births.LOST


def test_newborn_sees_orders_that_nobody_has_read() -> None:
    own, control = protocol.pair()
    with own, control:
        start = newborn.Start(control, -1, {})
        before = start.has_orders
        protocol.send(own, {})

        assert (before, start.has_orders) == (False, True)


@pytest.mark.slow
@needs("second core")
def test_given_up_spare_takes_no_other_with_it(own: Engine) -> None:
    other = ContainerOptions(network="host")
    own.start("minimal").close()
    spawner = only_child_of(own.session._process.pid)

    def has_settled() -> bool:  # at first, the spare may be one for the other options
        spares = spares_of(spawner)
        time.sleep(SETTLED_S / 4)
        return bool(spares) and spares == spares_of(spawner)

    for _ in range(5):
        own.start("minimal").close()
        wait_until(has_settled)
        killed = nursery_of(spawner)
        os.kill(killed, signal.SIGSTOP)
        with own.start("minimal"):  # by the spare; the nursery is asked for the next
            time.sleep(SETTLED_S / 4)
            os.kill(killed, signal.SIGKILL)  # before it can tell of that

            for _ in range(2):
                own.start("minimal", options=other).close()
                time.sleep(SETTLED_S / 4)


@needs("second core")
def test_past_failure_of_a_spare_is_not_told(own: Engine, masked: Path) -> None:
    own.start("minimal").close()
    spawner = only_child_of(own.session._process.pid)
    wait_until(lambda: spares_of(spawner))
    masked.unlink()
    with suppress(ContainerError):  # unless it is by a spare that had masked it
        own.start("minimal").close()
    time.sleep(SETTLED_S)  # what is born now fails, which nobody can see
    masked.touch()

    with own.start("minimal") as container:
        assert container.run(["true"]).returncode == 0


@pytest.mark.parametrize("own", [True], indirect=True)
@pytest.mark.parametrize("has_mount", [False, True])
@needs("second core")
def test_past_failure_of_a_container_ahead_is_not_told(
    own: Engine, masked: Path, *, has_mount: bool
) -> None:
    mount = Mount(source=Path("/etc"), target="/mnt", is_readonly=True)
    options = ContainerOptions(mounts=(mount,) if has_mount else ())

    def live() -> None:
        with own.start("minimal", options=options) as container:
            container.run(["true"])

    live()
    live()
    spawner = only_child_of(own.session._process.pid)
    wait_until(lambda: inits_of(spawner))
    masked.unlink()
    with suppress(ContainerError):  # unless it was made before
        live()
    time.sleep(SETTLED_S)
    masked.touch()

    live()
