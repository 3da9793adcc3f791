"""The one command: choose subjects, measure, print tables, write JSON."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import Result
from benchmarks.pages import with_tables
from benchmarks.stage import FULL, QUICK, STORE, Effort, Refused, Stage

SUBJECTS = (
    "phases",
    "rhythm",
    "tests",
    "depth",
    "mounts",
    "alive",
    "many",
    "memory",
    "start",
    "layers",
)
"""The modules of the subjects, in the order in which they run."""


def main(arguments: Sequence[str]) -> int:
    """Measure the chosen subjects; returns the exit status."""
    options = parse(arguments)
    measured: dict[str, Any] = {}  # Any: JSON
    tables: dict[str, str] = {}
    with Stage(options.store, effort_of(options)) as stage:
        for name in options.subjects or SUBJECTS:
            module = importlib.import_module(f"benchmarks.{name}")
            result = result_of(module.measure, stage)
            tables[name] = result.table()
            print(f"\n{name}: {module.ABOUT}\n\n{tables[name]}", flush=True)
            measured[name] = {"about": module.ABOUT, **result.as_json()}
    if options.json:
        content = {"machine": machine(), "subjects": measured}
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    if options.page:
        options.page.write_text(with_tables(options.page.read_text(), tables))
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure what containers cost on this machine."
    )
    parser.add_argument(
        "subjects", nargs="*", metavar="SUBJECT", help=f"of {', '.join(SUBJECTS)}; default: all"
    )
    parser.add_argument("--rounds", type=int, help="how often each candidate has its turn")
    parser.add_argument(
        "--quick", action="store_true", help="one round of few: shows that it runs, measures little"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="put the tables into it, docs/performance.md"
    )
    parser.add_argument("--store", type=Path, default=STORE, metavar="DIR", help="where images are")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.subjects if name not in SUBJECTS]:
        parser.error(f"unknown subject {unknown[0]!r}: choose of {', '.join(SUBJECTS)}")
    if options.rounds is not None and options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: give at least 1")
    return options


def effort_of(options: argparse.Namespace) -> Effort:
    """Return how much is measured."""
    effort = QUICK if options.quick else FULL
    return effort if options.rounds is None else effort._replace(rounds=options.rounds)


def result_of(measure: Callable[[Stage], Result], stage: Stage) -> Result:
    """Measure a subject; one that cannot run here is a result without figures."""
    try:
        return measure(stage)
    except Refused as refusal:
        result = Result()
        result.refused["this subject"] = str(refusal)
        return result


def machine() -> dict[str, object]:
    """Return what the figures depend on."""
    return {
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cpus": len(os.sched_getaffinity(0)),
        "root": os.geteuid() == 0,
    }
