"""What is done ahead leaves no trace in the container that a test gets."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from features import needs

from pytest_rootfs.engine import Engine, EngineSettings
from pytest_rootfs.runtime.spec import ContainerOptions

PAUSE_S = 0.02
"""In which the next container, or the spare, is made and rehearses."""

LIVES = 60

pytestmark = [needs("second core"), pytest.mark.slow]


@pytest.fixture(params=[True, False], ids=["ahead", "spare"])
def patient(engine: Engine, request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Give an engine that makes containers ahead, or their first process."""
    settings = EngineSettings(store=engine.store.root, makes_ahead=request.param)
    own = Engine(settings, warn=pytest.fail)
    yield own
    own.close()


def test_no_socket_is_there(patient: Engine) -> None:
    seen = []
    for number in range(LIVES):
        with patient.start("minimal") as container:
            seen.append(container.run(["cat", "/proc/net/unix"]).stdout.count("\n"))
        if number % 3 == 0:  # the others follow at once
            time.sleep(PAUSE_S)

    assert seen == [1] * LIVES  # the heading


@needs("memory")
def test_no_figure_is_spent(patient: Engine) -> None:
    options = ContainerOptions.from_keywords({"memory": "64M"})
    peaks = []
    for _ in range(LIVES):
        with patient.start("minimal", options=options) as container:
            peaks.append(container.stats().memory_peak_bytes)
        time.sleep(PAUSE_S)

    assert peaks == [0] * LIVES
