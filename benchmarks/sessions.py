"""Run sessions of pytest that note how long each of their tests took."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from benchmarks.stage import Refused

CONFTEST = """
import json, os, time
import pytest

took, seen = {}, []

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    began = time.perf_counter()
    result = yield
    took.setdefault(item.originalname, []).append((time.perf_counter() - began) * 1e3)
    return result

def pytest_runtest_logreport(report):
    if report.when == "teardown":
        seen.append(time.perf_counter() * 1e3)

def pytest_sessionfinish(session):
    if not hasattr(session.config, "workerinput"):
        with open("took.json", "w") as file:
            json.dump({"took": took, "seen": seen}, file)
"""

WITHOUT_US = ("-p", "no:rootfs", "-p", "no:rootfs.fixtures")


def others_off() -> list[str]:
    """Return the options that switch all plugins off but pytest's own, ours and xdist."""
    names = [each.name for each in entry_points(group="pytest11")]
    kept = ("rootfs", "rootfs.fixtures", "xdist")
    return [option for name in names if name not in kept for option in ("-p", f"no:{name}")]


def environment() -> dict[str, str]:
    """Return ours, without what changes pytest: a user's interpreter keeps what it compiles."""
    unwanted = ("PYTHONDONTWRITEBYTECODE", "PYTEST_ADDOPTS", "PYTEST_PLUGINS", "CI")
    return {key: value for key, value in os.environ.items() if key not in unwanted}


def run_session(folder: Path, tests: str, *options: str) -> Any:  # Any: JSON
    """Run tests in a folder; return what took.json of the session says."""
    folder.mkdir(exist_ok=True)
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_it.py").write_text(tests)
    program = "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"
    argv = [sys.executable, "-c", program, "-q", *others_off(), "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*argv, *options, "test_it.py"],
        check=False,
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment(),
    )
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines() or [f"status {done.returncode}"]
        raise Refused(lines[-1])
    return json.loads((folder / "took.json").read_text())
