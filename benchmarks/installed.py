"""Two environments that differ in one thing: whether the plugin is installed, as pip does it.

An editable install is no measure: pytest reads the list of an installed plugin's files at each
start.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.figures import Samples
from benchmarks.sessions import environment, others_off
from benchmarks.stage import Refused

ROOT = Path(__file__).parents[1]
NOT_SOURCE = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "tests")
WITHOUT, WITH = "a run of pytest, without", "a run of pytest, with"
OURS = ("pytest_rootfs", "pytest-rootfs", "__editable__")


class Installed:
    """Folders of modules: everything of this environment but the plugin, and the plugin alone."""

    def __init__(self, folder: Path) -> None:
        """Install the plugin; raises Refused where pip cannot."""
        self._others, self._ours = folder / "others", folder / "ours"
        self._suite = folder / "suite"
        self._suite.mkdir(parents=True)
        (self._suite / "test_it.py").write_text("def test_it(): pass\n")
        (self._suite / "pytest.ini").write_text("[pytest]\n")
        self._others.mkdir()
        for entry in (entry for place in _places() for entry in place.iterdir()):
            link = self._others / entry.name
            if not entry.name.startswith(OURS) and not link.is_symlink():
                link.symlink_to(entry)
        source = shutil.copytree(ROOT, folder / "source", ignore=NOT_SOURCE)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        done = subprocess.run(
            [*pip, "--target", self._ours, source], check=False, capture_output=True, text=True
        )
        if done.returncode:
            raise Refused(f"pip: {(done.stderr.strip().splitlines() or ['no reason'])[-1]}")

    def measure(self, runs: int) -> Samples:
        """Return the processor time of runs of pytest from start to end, in milliseconds."""
        samples: Samples = {WITHOUT: [], WITH: []}
        for _ in range(1 + runs):  # the first compiles what pip has not
            for name, folders in ((WITHOUT, [self._others]), (WITH, [self._others, self._ours])):
                samples[name].append(self._run(folders))
        return {name: column[1:] for name, column in samples.items()}

    def _run(self, folders: list[Path]) -> float:
        path = os.pathsep.join(map(str, folders))
        process = subprocess.Popen(
            [sys.executable, "-S", "-m", "pytest", *others_off()],
            cwd=self._suite,  # where no other copy of the plugin is found
            env={**environment(), "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = status
        if status:
            raise Refused(f"pytest in {self._suite}: wait status {status:#x}")
        return (usage.ru_utime + usage.ru_stime) * 1e3


def _places() -> list[Path]:
    return [Path(each) for each in sys.path if each.endswith(("site-packages", "dist-packages"))]
