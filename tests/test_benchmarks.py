"""The benchmarks run: every subject yields its table and valid JSON. No time is judged here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from features import needs

ROOT = Path(__file__).parents[1]
MODULES = (ROOT / "benchmarks").glob("*.py")
SUBJECTS = sorted(each.stem for each in MODULES if "\nABOUT = " in each.read_text())


def benchmarks(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


def measured(subject: str, folder: Path) -> tuple[dict[str, Any], str]:  # Any: JSON
    """Measure a subject quickly; return what the JSON says of it, and what was printed."""
    path, store = folder / "figures.json", os.environ["PYTEST_ROOTFS_STORE"]
    done = benchmarks(subject, "--quick", "--store", store, "--json", path)
    assert done.returncode == 0, done.stdout + done.stderr
    subjects = json.loads(path.read_text())["subjects"]
    assert list(subjects) == [subject]
    return subjects[subject], done.stdout


@pytest.mark.slow
@needs("userns")
@pytest.mark.parametrize("subject", SUBJECTS)
def test_subject_yields_table_and_json(subject: str, tmp_path: Path) -> None:
    found, printed = measured(subject, tmp_path)

    shown = {*found["figures"], *found["refused"]}
    assert [name for name in shown if f"\n{name} " not in printed] == []
    assert [x for x, figure in found["figures"].items() if figure["min"] > figure["median"]] == []
    assert found["figures"] or found["refused"]["this subject"]


@pytest.mark.slow
@needs("userns")
def test_floor_is_beside_every_phase(tmp_path: Path) -> None:
    figures = measured("phases", tmp_path)[0]["figures"]

    beside = {name: figure["beside"] for name, figure in figures.items()}
    assert beside["cold create"] == beside["ahead create"] == "floor create"
    assert beside["cold run"] == beside["ahead run"] == "floor run"
    assert beside["cold close"] == beside["ahead close"] == "floor close"
    assert beside["cold"] == beside["ahead"] == "floor"
    floor_ms = figures["floor"]["min"] if "floor" in figures else None  # it needs Linux 6.15
    expected = floor_ms and min(figures["cold"]["samples"]) / floor_ms
    assert figures["cold"]["ratio_min"] == expected


@pytest.mark.slow
@needs("userns")
def test_page_gets_the_table(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    marks = "<!-- FIGURES: {} -->\nold\n<!-- /FIGURES -->\n"
    page.write_text(f"Before.\n{marks.format('mounts')}Between.\n{marks.format('many')}")
    path = tmp_path / "figures.json"

    store = os.environ["PYTEST_ROOTFS_STORE"]
    benchmarks("mounts", "--quick", "--store", store, "--page", page, "--json", path)

    text = page.read_text()
    assert text.startswith("Before.\n<!-- FIGURES: mounts -->\n```\n")
    found = json.loads(path.read_text())["subjects"]["mounts"]
    assert [x for x in {**found["figures"], **found["refused"]} if f"\n{x} " not in text] == []
    assert text.endswith(f"\n```\n<!-- /FIGURES -->\nBetween.\n{marks.format('many')}")


@pytest.mark.slow
@needs("userns")
def test_long_session_leaves_nothing(tmp_path: Path) -> None:
    assert measured("many", tmp_path)[0]["figures"]["left behind"]["samples"] == [0]


def test_unknown_subject_names_the_known() -> None:
    done = benchmarks("fases")

    assert done.returncode == 2
    message, known = done.stderr.rstrip("\n").split("unknown subject 'fases': choose of ")
    assert message.endswith("error: ")
    assert sorted(known.split(", ")) == SUBJECTS
