"""Two environments that differ in one thing: whether the plugin is installed, as pip does it.

An editable install is no measure: pytest reads the list of an installed plugin's files at each
start.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from benchmarks.figures import Samples
from benchmarks.sessions import environment, others_off
from benchmarks.stage import Refused

ROOT = Path(__file__).parents[1]
NOT_SOURCE = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "tests")
WITHOUT, WITH = "a run of pytest, without", "a run of pytest, with"
OURS = ("pytest_rootfs", "pytest-rootfs", "__editable__")


class Installed:
    """Two folders of modules: all of this environment but the plugin, and the same with it.

    One folder each: every further one on `sys.path` makes each import of pytest's dearer.
    """

    def __init__(self, folder: Path) -> None:
        """Install the plugin; raises Refused where pip cannot."""
        self._without, self._with = folder / "without", folder / "with"
        self._suite = folder / "suite"
        self._suite.mkdir(parents=True)
        (self._suite / "test_it.py").write_text("def test_it(): pass\n")
        (self._suite / "pytest.ini").write_text("[pytest]\n")
        installed = folder / "installed"
        source = shutil.copytree(ROOT, folder / "source", ignore=NOT_SOURCE)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        done = subprocess.run(
            [*pip, "--target", installed, source], check=False, capture_output=True, text=True
        )
        if done.returncode:
            raise Refused(f"pip: {(done.stderr.strip().splitlines() or ['no reason'])[-1]}")
        others = [each for place in _places() for each in place.iterdir()]
        others = [each for each in others if not each.name.startswith(OURS)]
        _link(self._without, others)
        _link(self._with, [*others, *installed.iterdir()])

    def measure(self, runs: int) -> Samples:
        """Return the processor time of runs of pytest from start to end, in milliseconds."""
        samples: Samples = {WITHOUT: [], WITH: []}
        for _ in range(1 + runs):  # the first compiles what pip has not
            for name, modules in ((WITHOUT, self._without), (WITH, self._with)):
                samples[name].append(self._run(modules))
        return {name: column[1:] for name, column in samples.items()}

    def _run(self, modules: Path) -> float:
        process = subprocess.Popen(
            [sys.executable, "-S", "-m", "pytest", *others_off()],
            cwd=self._suite,  # where no other copy of the plugin is found
            env={**environment(), "PYTHONPATH": str(modules)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = status
        if status:
            raise Refused(f"pytest in {self._suite}: wait status {status:#x}")
        return (usage.ru_utime + usage.ru_stime) * 1e3


def _link(folder: Path, entries: Iterable[Path]) -> None:
    """Make a folder that shows these entries, of each name the first."""
    folder.mkdir()
    for entry in entries:
        link = folder / entry.name
        if not link.is_symlink():
            link.symlink_to(entry)


def _places() -> list[Path]:
    return [Path(each) for each in sys.path if each.endswith(("site-packages", "dist-packages"))]
