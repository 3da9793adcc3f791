"""Hosts whose mounts are shared between namespaces, as systemd makes them all, see none of ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
