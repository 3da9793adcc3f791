"""Root of a user namespace, as inside a rootless podman: containers of the ids that it has."""

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

engine = Engine(EngineSettings(store=Path(sys.argv[1]), limits="best-effort"), warn=print)
try:
    with engine.start("minimal") as container:
        print(engine.ids.mode)
        print(container.run("id -u; touch /new; stat -c %u /new").stdout.split())
        print(container.changes())
finally:
    engine.close()
"""


def run_nested(tmp_path: Path, *options: str) -> list[str]:
    argv = ["unshare", "--user", *options, sys.executable, "-c", SCRIPT, str(tmp_path / "store")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    return done.stdout.splitlines()


@needs("unshare", "userns")
@pytest.mark.slow
def test_root_of_a_namespace_with_a_single_id(tmp_path: Path) -> None:
    lines = run_nested(tmp_path, "--map-root-user")

    assert lines == ["rootless, single id", "['0', '0']", "Changes({'/new': 'added'})"]


@needs("unshare", "subids", "ordinary user")
@pytest.mark.slow
def test_root_of_a_namespace_with_many_ids(tmp_path: Path) -> None:
    lines = run_nested(tmp_path, "--map-root-user", "--map-auto")

    assert lines == ["rootless", "['0', '0']", "Changes({'/new': 'added'})"]
