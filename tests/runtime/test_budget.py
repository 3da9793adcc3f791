"""Starting, using and closing a container makes no more system calls, forks and faults than before.

`RENEW_BUDGET=1 pytest tests/runtime/test_budget.py`, as root and as an ordinary user, writes the
budget anew: after a change that is meant to cost less, or is worth what it costs.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import budgets
import pytest
from features import needs

from pytest_rootfs.engine import Engine

BUDGET = Path(__file__).with_name("budget.json")
MEASURED_MOST = 6
"""On a busy machine what comes at once comes bit by bit: a poll more in each of the few lives."""


def place() -> str:
    return "ordinary user, single id" if os.getuid() else "root"


@pytest.mark.slow
@needs("strace", "cgroup v1", "own cgroups")
@pytest.mark.parametrize("mode", ["cold", pytest.param("ahead", marks=needs("second core"))])
def test_a_life_costs_no_more(mode: str, engine: Engine, tmp_path: Path) -> None:
    engine.builder.build(engine.resolve("minimal"))
    budget = json.loads(BUDGET.read_text())

    for _ in range(MEASURED_MOST):
        costs = budgets.measure(engine.store.root, mode, tmp_path)
        if os.environ.get("RENEW_BUDGET"):
            budget[place()][mode] = costs
            BUDGET.write_text(json.dumps(budget, indent=1, sort_keys=True) + "\n")
        if not (grown := budgets.grown(costs, budget[place()][mode])):
            break

    assert not grown, "\n".join(grown)


def test_growth_is_named() -> None:
    budget = {"close": {"spawner": {"umount2": 2, "kill": 1, "page faults": 100}}}
    costs = {"close": {"spawner": {"umount2": 3, "kill": 1, "page faults": 200, "setns": 1}}}

    assert budgets.grown(costs, budget) == [
        "close: spawner: 3 umount2, budget 2",
        "close: spawner: 200 page faults, budget 100",
        "close: spawner: 1 setns, budget 0",
    ]
