"""The evidence survives: a killed pytest, a full disk, a read-only project, odd containers."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from features import needs
from keeping import keep

from pytest_rootfs import failures
from pytest_rootfs.engine import Engine, EngineSettings
from pytest_rootfs.store import oci

pytestmark = [needs("userns"), pytest.mark.slow]

Records = Callable[[pytest.RunResult], list[dict[str, Any]]]


def die_at(event: int) -> None:
    """Let this process be killed when it opens, makes, links or renames for the n-th time."""
    left = [event]

    def count(name: str, _arguments: object) -> None:
        if name in ("open", "os.rename", "os.link", "os.mkdir", "os.chmod"):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def keep_and_die(engine: Engine, event: int) -> bool:
    """Keep a failure in a child that is killed at an event; tell whether it got to its end."""
    container = engine.start("scratch")
    container.path("/file").write_text(f"{event}\n")
    pid = os.fork()
    if pid == 0:
        try:
            die_at(event)
            keep(engine, container, rootdir=Path("/project"), nodeid=f"t.py::t{event}")
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    container.close()
    return os.WIFEXITED(status)


def test_killed_at_any_step_it_is_whole_or_absent(tmp_path: Path) -> None:
    engine = Engine(EngineSettings(store=tmp_path / "store"), warn=lambda _: None)
    engine.start("scratch").close()
    event = 0
    while not keep_and_die(engine, event):
        event += 1

    kept = failures.Failures(engine.store)
    store = engine.store

    assert event > 8
    assert kept.damaged() == []
    assert 1 <= len(kept.list()) < event
    for each in kept.list():
        image = oci.read_image(store, each.manifest)
        content = store.blobs.path(image.diff_ids[-1]).read_bytes()
        assert f"sha256:{hashlib.sha256(content).hexdigest()}" == each.layer
    engine.close()


def run_with_mounts(pytester: pytest.Pytester, setup: str, *options: str) -> pytest.RunResult:
    """Run pytest in a mount namespace of its own, after some shell text."""
    ids: Sequence[str] = [] if os.getuid() == 0 else ["--user", "--map-root-user"]
    command = [sys.executable, "-mpytest", *options]
    text = f'{setup}\nexec "$@"'
    return pytester.run("unshare", *ids, "--mount", "sh", "-ec", text, "sh", *command)


def test_full_disk_is_told_and_changes_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="""
        import os
        import pytest

        @pytest.mark.container("scratch")
        def test_it(container, pytestconfig):
            container.path("/file").write_text("new")
            with open("store/filler", "wb", buffering=0) as filler, pytest.raises(OSError):
                while True: filler.write(bytes(4096))
            assert False, "the reason"
        """
    )

    result = run_with_mounts(
        pytester,
        "mkdir -m 0700 store\nmount -t tmpfs -o mode=0700,size=1m tmpfs store",
        "--rootfs-store=store",
    )

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E  *the reason",
            "*- rootfs changes -*",
            "added     /file",
            "*- rootfs failure -*",
            "files: *",
        ]
    )


def test_read_only_project_takes_no_golden_tree(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it="def test_it(container): container.changes().match_golden('clean')")

    result = run_with_mounts(
        pytester,
        'mount --bind . .\nmount -o remount,bind,ro .\ncd "$PWD"',
        "--rootfs-update-golden",
        "-pno:cacheprovider",
    )

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["E *RootfsError: cannot write the golden file */clean.txt: Read-only*"]
    )
    result.stdout.no_fnmatch_line("*golden.py:*")


def test_read_only_project_keeps_all_the_same(pytester: pytest.Pytester, failures: Records) -> None:
    pytester.makepyfile(test_it="def test_it(container): container.run('touch /etc/new; false')")

    result = run_with_mounts(
        pytester,
        'mount --bind . .\nmount -o remount,bind,ro .\ncd "$PWD"',
        "--rootfs-output=out",
        "-pno:cacheprovider",
    )

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*- rootfs changes -*",
            "added     /etc/new",
            "copy to */out: Read-only file system: */out",
        ]
    )
    assert [len(each["changes"]) for each in failures(result)] == [1]


@needs("memory")
def test_frozen_dead_and_starved_containers_are_kept(
    pytester: pytest.Pytester, failures: Records
) -> None:
    pytester.makepyfile(
        test_it="""
        import os, signal
        import pytest

        @pytest.fixture(autouse=True)
        def changed(container): container.path("/etc/new").touch()

        def test_frozen(container):
            container.popen(["sleep", "1000"])
            container.freeze()
            assert False
        def test_dead(container):
            os.kill(container.pid, signal.SIGKILL)
            assert False
        @pytest.mark.container(memory="16M")
        def test_starved(container):
            container.run("head -c 64M /dev/zero | tail -c 64M > /dev/null")
        @pytest.mark.container(memory="16M", disk="64M")
        def test_full(container):
            container.run("head -c 63M /dev/zero > /fill")
        """
    )

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(failed=4)
    kept = failures(result)
    assert [bool(each["manifest"]) for each in kept] == [True] * 4
    assert ["/etc/new" in [x["path"] for x in each["changes"]] for each in kept] == [True] * 4
