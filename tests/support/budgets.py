"""What the lives of containers cost in counts, by phase and process, and what grew."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

LIVES = 3
PHASES = ("start", "run", "close")
PROGRAM = Path(__file__).with_name("budget_lives.py")
FAULTS, DESCRIPTORS = "page faults", "descriptors"
FAULTS_MAY_VARY = 1.25
FAULTS_MAY_ADD = 25
"""Faults depend on where the allocator happens to be, by a page here and there; calls do not."""

TRACED = re.compile(r"(\d+) +(\w+)\(")
MARK = re.compile(r'access\("/(\d+)/(\w+)/(\w+)"')

Costs = dict[str, dict[str, dict[str, int]]]
"""Counts by phase, process and system call; FAULTS and DESCRIPTORS beside the calls."""


def measure(store: Path, mode: str, folder: Path) -> Costs:
    """Return the least that each count was over some lives: what is by chance only adds."""
    trace = folder / f"{mode}.trace"
    strace = ["strace", "-f", "-qq", "-o", trace, sys.executable, PROGRAM, store, mode, str(LIVES)]
    done = subprocess.run(strace, check=True, stdout=subprocess.PIPE, text=True, timeout=120)
    lives = json.loads(done.stdout)
    counted = [*map(held, lives)]
    for (life, phase, role, call), number in calls_of(trace, lives).items():
        counted[life].setdefault((phase, role, call), 0)
        counted[life][phase, role, call] += number
    costs: Costs = {}
    for phase, role, what in sorted({key for life in counted for key in life}):
        least = min(life.get((phase, role, what), 0) for life in counted)
        if least:
            costs.setdefault(phase, {}).setdefault(role, {})[what] = least
    return costs


def held(life: dict[str, Any]) -> dict[tuple[str, str, str], int]:
    """Return the page faults and the descriptors that each phase has added to a process."""
    added: dict[tuple[str, str, str], int] = {}
    for phase, (before, after) in zip(PHASES, pairwise(life["looks"]), strict=True):
        for pid in after.keys() & life["roles"].keys():
            old = before.get(pid, (0, 0))
            for what, new, was in zip((FAULTS, DESCRIPTORS), after[pid], old, strict=True):
                added[phase, life["roles"][pid], what] = new - was
    return added


def calls_of(trace: Path, lives: list[dict[str, Any]]) -> Counter[tuple[int, str, str, str]]:
    """Count the system calls by life, phase, process and name.

    Pytest's count until the answer, all others' until they sleep; a command's until its execve.
    """
    pytest_pid = next(pid for pid, role in lives[0]["roles"].items() if role == "pytest")
    counts: Counter[tuple[int, str, str, str]] = Counter()
    executed: set[str] = set()
    for life, phase, is_answered, pid, call in within_phases(trace, pytest_pid):
        if (pid == pytest_pid and is_answered) or pid in executed:
            continue
        counts[life, phase, lives[life]["roles"].get(pid, "command"), call] += 1
        if call == "execve":
            executed.add(pid)
    return counts


def within_phases(trace: Path, pytest_pid: str) -> Iterator[tuple[int, str, bool, str, str]]:
    life, phase, edge = 0, "", "ends"
    with trace.open(errors="replace") as lines:
        for line in lines:
            if not (traced := TRACED.match(line)):
                continue
            if traced[1] == pytest_pid and (mark := MARK.search(line)):
                life, phase, edge = int(mark[1]), mark[2], mark[3]
            elif edge != "ends":
                yield life, phase, edge == "answered", traced[1], traced[2]


def grown(costs: Costs, budget: Costs) -> list[str]:
    """Return a line for each count above its budget: `close: spawner: 3 umount2, budget 2`."""
    lines = []
    for phase, roles in costs.items():
        for role, counts in roles.items():
            for what, count in counts.items():
                allowed = budget.get(phase, {}).get(role, {}).get(what, 0)
                most = allowed * FAULTS_MAY_VARY + FAULTS_MAY_ADD if what == FAULTS else allowed
                if count > most:
                    lines.append(f"{phase}: {role}: {count} {what}, budget {allowed}")
    return lines
