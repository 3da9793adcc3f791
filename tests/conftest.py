"""What every test gets: a store and a temporary folder of the suite's own, and the leak check."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import features
import hypothesis
import leaks
import pytest

pytest_plugins = ["pytester"]

# one checkout is tested by several users, who cannot share a database of examples
hypothesis.settings.register_profile("suite", database=None)
hypothesis.settings.load_profile("suite")

IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ


def use_private_folders() -> None:
    """Point everything that the tests start at a store and a temporary folder of this suite.

    pytest's own numbered folders stay where they are, to be read after a failure. The store lives
    longer than one run, so that images are built once; each user has one.
    """
    store = Path(__file__).parents[1] / ".cache" / f"store-{os.getuid()}"
    os.environ.setdefault("PYTEST_ROOTFS_STORE", str(store))
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    os.environ["TMPDIR"] = tempfile.mkdtemp(prefix="pytest-rootfs-suite-")
    tempfile.tempdir = None


if not IS_WORKER:
    use_private_folders()
else:  # the rest of the environment came from the process that started this one
    os.environ["TMPDIR"] = tempfile.tempdir = tempfile.mkdtemp()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes more than 0.25 s")
    config.addinivalue_line(
        "markers", "needs(feature): skip where the machine lacks it, fail there in CI"
    )


def pytest_unconfigure() -> None:
    if not IS_WORKER:
        shutil.rmtree(os.environ["TMPDIR"], ignore_errors=True)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        for feature in mark.args:
            if reason := features.missing(feature):
                features.give_up(feature, reason)


@pytest.fixture(autouse=True)
def nothing_is_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a process, mount, cgroup, descriptor or temporary file behind.

    The session's own engine may stay: one warden and its spawner. Set up first, so that it looks
    after every other fixture of the test is torn down.
    """
    before = leaks.look()
    yield
    if left := leaks.wait_until_gone(before):
        pytest.fail("left behind:\n" + "\n".join(left), pytrace=False)
