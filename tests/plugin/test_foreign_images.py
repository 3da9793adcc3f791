"""Images of other tools in a run of pytest: where paths start, and how a wait is told."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from foreign_images import Layout, digest_of, layer

from pytest_rootfs.store.store import Store

MARKED = """
import pytest
@pytest.mark.container("oci:images/app")
def test_mark(container):
    assert container.path("/srv/a").exists()
def test_default(container):
    assert container.path("/srv/a").exists()
"""


def test_path_starts_at_rootdir(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    Layout(pytester.path / "images" / "app").add([layer("a")])
    pytester.makeini("[pytest]\nrootfs_image = oci:images/app\n")
    (pytester.mkdir("below") / "test_it.py").write_text(MARKED)
    monkeypatch.chdir(pytester.path / "below")

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(passed=2)


def test_missing_path_is_told_once(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(container): pass")

    result = pytester.runpytest_subprocess("--rootfs-image", "oci:nowhere")

    assert result.ret != 0
    result.stdout.no_fnmatch_line("*Traceback*")
    (result.stdout if "nowhere" in str(result.stdout) else result.stderr).fnmatch_lines(
        [f"*cannot read {pytester.path}/nowhere: No such file or directory*"]
    )


@pytest.mark.parametrize("workers", [(), ("-n1",)])
def test_who_waits_says_for_whom(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    text = os.urandom(8).hex()  # the store is shared: no other test has imported this layer
    Layout(pytester.path / "app").add([layer(text)])
    pytester.makepyfile("def test_it(container): pass")
    locked = digest_of(gzip.compress(layer(text), mtime=0))
    command = [sys.executable, "-m", "pytest", "-q", "--rootfs-image", "oci:app", *workers]
    told: list[str] = []
    with Store.open(Path(os.environ["PYTEST_ROOTFS_STORE"])) as store:
        with store.lock(f"blob-{locked}", doing="tests the others' patience"):
            run = subprocess.Popen(
                command,
                cwd=pytester.path,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            assert run.stderr is not None
            watchdog = threading.Timer(60, run.kill)
            watchdog.start()
            told += next((line for line in run.stderr if "waiting" in line), "").splitlines()
        run.communicate()
        watchdog.cancel()

    assert told == [f"rootfs: waiting for {_me()}, which tests the others' patience"]
    assert run.returncode == 0


def _me() -> str:
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    return f"pid {os.getpid()}" + (f" ({worker})" if worker else "")


def test_failure_on_a_foreign_image_is_kept(pytester: pytest.Pytester) -> None:
    row = Layout(pytester.path / "app").add([layer("a"), layer("b")])
    pytester.makepyfile(
        "def test_it(container):\n    container.path('/srv/new').write_text('x')\n    assert 0\n"
    )

    result = pytester.runpytest_subprocess("--rootfs-image", "oci:app", "--rootfs-output", "out")

    result.assert_outcomes(failed=1)
    (kept,) = (pytester.path / "out").rglob("failure.json")
    failure = json.loads(kept.read_text())
    assert failure["image"]["digest"] == row["digest"]
    assert [change["path"] for change in failure["changes"]] == ["/srv/new"]
