"""What the tests of the plugin share: pytest in a process of its own, as a user would run it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Record = dict[str, Any]  # Any: JSON


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what runs a whole pytest of its own."""
    for item in items:
        if "pytester" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _laptop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the inner runs be those of a person, not of CI, whatever runs the outer one."""
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("BUILD_NUMBER", raising=False)


@pytest.fixture(autouse=True)
def _failures_are_removed(request: pytest.FixtureRequest) -> Iterator[None]:
    """Take the failures of an inner run out of the store that all tests share."""
    yield
    pytester = request.node.funcargs.get("pytester")
    store = Path(os.environ["PYTEST_ROOTFS_STORE"])
    for record in store.glob("failures/*/failure.json") if pytester else ():
        if json.loads(record.read_text(errors="surrogateescape"))["rootdir"] == str(pytester.path):
            shutil.rmtree(record.parent)


@pytest.fixture
def failures() -> Callable[[pytest.RunResult], list[Record]]:
    """Return a function that reads the failures in a run's summary, in its order."""

    def read(result: pytest.RunResult) -> list[Record]:
        found = [match[1] for line in result.outlines if (match := SUMMARY_LINE.fullmatch(line))]
        folder = Path(os.environ["PYTEST_ROOTFS_STORE"]) / "failures"
        return [json.loads((folder / each / "failure.json").read_text()) for each in found]

    return read


SUMMARY_LINE = re.compile(r"([0-9a-f]{6})  \S.*  \S.*   pytest-rootfs (?:shell|show) \1")
