"""Keep containers as a failure, as the plugin does for a failed test."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_rootfs import failures
from pytest_rootfs.failure_record import Failure

if TYPE_CHECKING:
    from pytest_rootfs import Container
    from pytest_rootfs.engine import Engine


def keep(
    engine: Engine,
    *containers: Container,
    rootdir: Path,
    nodeid: str = "t.py::test_it",
    outcome: str = "failed",
    message: str = "",
) -> Failure:
    """Gather and publish what is in containers that no other test has used."""
    view = failures.Viewpoint(began_ns=0, secrets=engine.secrets)
    failure = Failure(
        id="",
        nodeid=nodeid,
        when="call",
        outcome=outcome,
        time=failures.now(),
        message=message,
        rootdir=str(rootdir),
        containers=tuple(failures.look_and_keep(each, view, engine.store) for each in containers),
        timings={"call": 0.1},
    )
    return failures.publish(engine.store, failure)


def forget(engine: Engine, failure: Failure) -> None:
    """Remove a failure; its blobs stay until the store is collected."""
    failures.Failures(engine.store).remove(failure.id)
