"""A fork of pytest that outlives it, as of multiprocessing, keeps its sockets, and nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from leftovers import GONE_S, left_of
from process_table import descendants_of, is_alive

from pytest_rootfs.engine import Engine

PROGRAM = """
import json, os, sys, time
from pathlib import Path
from pytest_rootfs.engine import Engine, EngineSettings

engine = Engine(EngineSettings(store=Path(sys.argv[1]), makes_ahead=True), warn=print)
container = engine.start("minimal")
container.popen(["sleep", "300"])
fork = os.fork()
if fork == 0:
    os.close(1)
    time.sleep(300)
print(json.dumps({"warden": engine.session._process.pid, "fork": fork}), flush=True)
sys.stdin.readline()
engine.close()
"""
pytestmark = pytest.mark.slow


@pytest.fixture
def program(engine: Engine) -> Iterator[subprocess.Popen[str]]:
    """Start a process with a living container and a fork; both die after the test."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(engine.store.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.kill()


def facts_of(program: subprocess.Popen[str]) -> dict[str, Any]:
    assert program.stdout is not None
    facts: dict[str, Any] = json.loads(program.stdout.readline())
    facts["tree"] = [facts["warden"], *descendants_of(facts["warden"])]
    return facts


@pytest.mark.parametrize("way", ["orderly", "killed"])
def test_nothing_but_the_fork_is_left(program: subprocess.Popen[str], way: str) -> None:
    facts = facts_of(program)

    if way == "killed":
        program.kill()
    else:
        program.communicate("end\n", timeout=GONE_S)

    try:
        assert left_of(facts["warden"], facts["tree"]) == []
        assert is_alive(facts["fork"])
    finally:
        os.kill(facts["fork"], signal.SIGKILL)
