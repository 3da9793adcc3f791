"""Hosts whose mounts are shared between namespaces, as systemd makes them all, see none of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import process_table
import pytest
from features import needs

SCRIPT = """
import sys
from pathlib import Path
from pytest_rootfs.engine import Engine, EngineSettings

def mounts():
    return set(Path("/proc/self/mountinfo").read_text().splitlines())

before = mounts()
engine = Engine(EngineSettings(store=Path(sys.argv[2]), limits="best-effort"), warn=print)
try:
    with engine.start(sys.argv[1]) as container:
        container.run("echo new > /new")
        print(container.changes())
        print(*mounts() - before)
finally:
    engine.close()
print(*mounts() - before)
"""

HELD = """
import subprocess, sys
from pathlib import Path
from process_table import children_of
from pytest_rootfs.engine import Engine, EngineSettings

folder = sys.argv[2]

def seen():
    warden = engine.session._process.pid
    (spawner,) = children_of(warden)
    below = [spawner, *children_of(spawner)]
    return sum(folder in Path(f"/proc/{pid}/mountinfo").read_text() for pid in below)

subprocess.run(["mount", "-t", "tmpfs", "none", folder], check=True)
engine = Engine(EngineSettings(store=Path(sys.argv[1]), limits="best-effort"), warn=print)
try:
    engine.start("minimal").close()
    with engine.start("minimal") as container:
        print(seen() > 0)
        subprocess.run(["umount", folder], check=True)
        print(seen(), container.run("echo alive").stdout, end="")
finally:
    engine.close()
"""


@needs("root", "unshare")
@pytest.mark.slow
def test_host_unmounts_what_it_wants(tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    unshare = ["unshare", "--mount", "--propagation", "shared"]

    done = subprocess.run(
        [*unshare, sys.executable, "-c", HELD, str(tmp_path / "store"), str(tmp_path / "volume")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.path.dirname(process_table.__file__)},
    )

    assert done.stderr == ""
    assert done.stdout == "True\n0 alive\n"


@needs("root", "unshare")
@pytest.mark.slow
@pytest.mark.parametrize("image", ["minimal", "host"])
def test_host_sees_no_mount(tmp_path: Path, image: str) -> None:
    unshare = ["unshare", "--mount", "--propagation", "shared"]

    done = subprocess.run(
        [*unshare, sys.executable, "-c", SCRIPT, image, str(tmp_path / "store")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.stderr == ""
    assert done.stdout == "Changes({'/new': 'added'})\n\n\n"
