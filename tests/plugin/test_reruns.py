"""`pytest-rootfs rerun`: the test of a failure once more, fresh or from where it ended."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from features import needs

Failures = Callable[[pytest.RunResult], list[dict[str, Any]]]  # Any: JSON

pytestmark = needs("userns")

COUNTING = """
    def test_counts(container):
        count = container.path("/srv/count")
        seen = int(count.read_text()) if count.exists() else 0
        count.write_text(str(seen + 1))
        print("seen", seen)
        assert seen == 1
"""


def rerun(pytester: pytest.Pytester, *words: str) -> pytest.RunResult:
    """Call the command line from where the project is not."""
    (pytester.path / "aside").mkdir(exist_ok=True)
    os.chdir(pytester.path / "aside")
    try:
        return pytester.run(sys.executable, "-m", "pytest_rootfs", "rerun", *words)
    finally:
        os.chdir(pytester.path)


@pytest.fixture
def counting(pytester: pytest.Pytester) -> pytest.Pytester:
    """Make a project whose test passes only where it has failed once, and let it fail."""
    pytester.makeini("[pytest]")
    pytester.makepyfile(COUNTING)
    pytester.runpytest_subprocess().assert_outcomes(failed=1)
    return pytester


def test_rerun_is_on_a_fresh_image(counting: pytest.Pytester) -> None:
    result = rerun(counting, "last")

    result.assert_outcomes(failed=1)
    assert result.ret == 1
    result.stdout.fnmatch_lines([f"rootdir: {counting.path}", "*seen 0"])
    result.stderr.fnmatch_lines(["note: *::test_counts on a fresh image, in *"])


@needs("memory")
def test_rerun_has_the_configuration_of_the_project(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\npythonpath = lib\nrootfs_memory = 77M")
    for folder in ("lib", "tests"):
        pytester.mkdir(folder)
    (pytester.path / "lib" / "helper.py").write_text("MEMORY = 77 << 20")
    (pytester.path / "tests" / "test_it.py").write_text(
        "import helper\n"
        "def test_it(container):\n"
        "    assert container.limits.memory == helper.MEMORY\n"
        "    assert container.path('/new').exists()\n"
    )
    pytester.runpytest_subprocess().assert_outcomes(failed=1)

    result = rerun(pytester, "last")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["configfile: tox.ini", "E * assert False"])


def test_rerun_from_failure_goes_on_there(counting: pytest.Pytester) -> None:
    result = rerun(counting, "last", "--from-failure")

    result.assert_outcomes(passed=1)
    assert result.ret == 0


def test_changes_are_counted_from_the_failure(
    pytester: pytest.Pytester, failures: Failures
) -> None:
    pytester.makeini("[pytest]")
    pytester.makepyfile(
        """
        def test_adds(container):
            before = container.path("/srv/1").exists()
            container.path("/srv/2" if before else "/srv/1").touch()
            assert container.changes() == {}
        """
    )
    pytester.runpytest_subprocess()

    (failure,) = failures(rerun(pytester, "last", "--from-failure"))

    assert [change["path"] for change in failure["changes"]] == ["/srv/2"]
    walked = pytester.run(
        sys.executable, "-m", "pytest_rootfs", "ls", failure["id"], "/srv", "--json"
    )
    assert [entry["name"] for entry in json.loads(walked.stdout.str())] == ["1", "2"]


def test_options_go_to_pytest(counting: pytest.Pytester) -> None:
    result = rerun(counting, "last", "--", "--collect-only", "-q")

    assert result.ret == 0
    result.stdout.fnmatch_lines(["*::test_counts", "*1 test collected*"])


def test_rerun_uses_the_images_of_the_session(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]")
    pytester.makepyfile(COUNTING)
    images = ["--rootfs-image", "minimal", "--rootfs-image", "busybox"]
    pytester.runpytest_subprocess(*images, "-k", "busybox").assert_outcomes(failed=1, deselected=1)

    result = rerun(pytester, "last", "--from-failure")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["rootfs: *images minimal, busybox*"])


def test_every_container_starts_where_it_ended(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]")
    pytester.makepyfile(
        """
        def test_two(container_factory):
            first, second = container_factory(), container_factory()
            named = container_factory(name="db")
            found = [each.path("/srv/mine") for each in (first, second, named)]
            if not found[0].exists():
                for number, path in enumerate(found):
                    path.write_text(str(number))
            else:
                assert [path.read_text() for path in found] == ["0", "1", "2"]
                extra = container_factory()
                assert not extra.path("/srv/mine").exists()
                return
            assert False
        """
    )
    pytester.runpytest_subprocess().assert_outcomes(failed=1)

    rerun(pytester, "last", "--from-failure").assert_outcomes(passed=1)


def test_other_tests_start_fresh(counting: pytest.Pytester) -> None:
    counting.makepyfile(
        test_other="""
        def test_other(container): assert not container.path("/srv/count").exists()
        """
    )
    args = ["--rootfs-from-failure", "test_counts"]

    counting.runpytest_subprocess(*args).assert_outcomes(passed=2)


def test_unknown_failure_is_a_usage_error(counting: pytest.Pytester) -> None:
    result = counting.runpytest_subprocess("--rootfs-from-failure", "nonsense")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: no kept failure is called 'nonsense'*"])


def test_missing_project_is_told(counting: pytest.Pytester, tmp_path: Path) -> None:
    store = Path(os.environ["PYTEST_ROOTFS_STORE"])
    (record,) = [
        path
        for path in store.glob("failures/*/failure.json")
        if json.loads(path.read_text())["rootdir"] == str(counting.path)
    ]
    data = json.loads(record.read_text())
    record.write_text(json.dumps({**data, "rootdir": str(tmp_path / "gone")}))

    result = rerun(counting, record.parent.name)

    record.write_text(json.dumps(data))  # so that it is removed after the test
    assert result.ret == 3
    result.stderr.fnmatch_lines(["error: the project of failure * is not here any more: *gone"])


def test_sys_path_is_that_of_pytest(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]")
    pytester.makepyfile(
        **{
            "tests/test_path": f"""
            import sys
            def test_path(container):
                assert not {{{str(pytester.path)!r}, ""}} & set(sys.path)
            """
        }
    )
    pytester.runpytest_subprocess().assert_outcomes(failed=1)  # it is called by `python -m`

    rerun(pytester, "last").assert_outcomes(passed=1)
