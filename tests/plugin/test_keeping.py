"""What a failure leaves: in the report, in the summary, in the store."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

import pytest
from features import needs

pytestmark = needs("userns")

Failures = Callable[[pytest.RunResult], list[dict[str, Any]]]


def test_failed_call_is_kept(pytester: pytest.Pytester, failures: Failures) -> None:
    pytester.makepyfile(
        test_it="""
        def test_fails(container):
            container.run("echo new > /etc/new; rm /etc/passwd; mkdir /etc/folder")
            container.run("echo words; exit 3")
        """
    )

    result = pytester.runpytest_subprocess("-W", "error")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E  *CommandFailed: command `echo words; exit 3` failed with exit status 3",
            "*- rootfs changes -*",
            "added     /etc/folder/",
            "added     /etc/new",
            "deleted   /etc/passwd",
            "*- rootfs commands -*",
            "$ /bin/sh -c 'echo words; exit 3'  [[]exit status 3, * s]",
            "  words",
            "*= rootfs failures =*",
            "??????  test_it.py::test_fails  3 changes, * KiB   pytest-rootfs shell ??????",
            "*= 1 failed in *",
        ]
    )
    result.stdout.no_fnmatch_line("*container.py:*")
    failure = failures(result)[0]
    assert failure["nodeid"] == "test_it.py::test_fails"
    assert (failure["when"], failure["outcome"], failure["keep"]) == ("call", "failed", "failed")
    assert failure["rootdir"] == str(pytester.path)
    assert failure["message"].startswith("pytest_rootfs.errors.CommandFailed: command `echo words")
    assert sorted(failure["timings"]) == ["call", "setup"]
    assert [each["path"] for each in failure["changes"]] == [
        "/etc/folder",
        "/etc/new",
        "/etc/passwd",
    ]


def test_passed_skipped_and_expected_are_not_kept(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        def test_passes(container): pass
        def test_skips(container): pytest.skip("no")
        @pytest.mark.xfail
        def test_expected(container): assert False
        """
    )

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(passed=1, skipped=1, xfailed=1)
    result.stdout.no_fnmatch_line("*rootfs failures*")


def test_strict_xpass_is_kept(pytester: pytest.Pytester, failures: Failures) -> None:
    pytester.makepyfile(
        """
        import pytest
        @pytest.mark.xfail(strict=True)
        def test_unexpected(container): container.path("/etc/new").touch()
        """
    )

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(failed=1)
    assert [each["message"] for each in failures(result)] == ["[XPASS(strict)]"]


def test_failed_set_up_is_kept(pytester: pytest.Pytester, failures: Failures) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def installed(container):
            container.run("touch /etc/half; exit 1")

        def test_it(installed): pass
        """
    )

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*- rootfs changes -*", "added     /etc/half"])
    assert [(each["when"], len(each["changes"])) for each in failures(result)] == [("setup", 1)]


def test_failed_teardown_is_kept(pytester: pytest.Pytester, failures: Failures) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def checked(container):
            yield container
            container.run("rm /etc/passwd; exit 1")

        def test_it(checked): pass
        """
    )

    result = pytester.runpytest_subprocess("-W", "error")

    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*- rootfs changes -*", "deleted   /etc/passwd"])
    kept = failures(result)
    assert [(each["when"], len(each["changes"])) for each in kept] == [("teardown", 1)]
    assert kept[0]["manifest"]


def test_failed_teardown_after_close_is_kept(pytester: pytest.Pytester, failures: Failures) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def outer():
            yield
            assert False, "after the container was closed"

        def test_it(outer, container): container.path("/etc/new").touch()
        """
    )

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(passed=1, errors=1)
    assert [(each["when"], len(each["changes"])) for each in failures(result)] == [("teardown", 1)]


def test_attempt_is_kept_once(pytester: pytest.Pytester, failures: Failures) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def both(container):
            yield
            container.run("false")

        def test_it(container, both): container.run("false")
        """
    )

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(failed=1, errors=1)
    assert [each["when"] for each in failures(result)] == ["call"]


def test_closed_container_is_kept(pytester: pytest.Pytester, failures: Failures) -> None:
    pytester.makepyfile(
        """
        def test_it(container_factory):
            with container_factory(name="closed") as container:
                container.path("/etc/new").touch()
                container.run("false")
        """
    )

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(failed=1)
    assert [(each["name"], len(each["changes"])) for each in failures(result)] == [("closed", 1)]


def test_every_container_of_the_test_is_kept(pytester: pytest.Pytester, failures: Failures) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="module")
        def shared(container_factory): return container_factory(name="shared")
        @pytest.fixture(scope="module")
        def unused(container_factory): return container_factory(name="unused")

        def test_first(shared, unused): pass
        def test_second(container_factory, shared, unused):
            container_factory(name="own").path("/etc/own").touch()
            shared.path("/etc/shared").touch()
            assert False
        def test_third(shared): assert shared.path("/etc/shared").exists()
        """
    )

    result = pytester.runpytest_subprocess("-W", "error")

    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(
        [
            "container own (minimal):",
            "added     /etc/own",
            "container shared (minimal):",
            "added     /etc/shared",
        ]
    )
    [failure] = failures(result)
    assert [failure["name"], *(each["name"] for each in failure["containers"])] == ["own", "shared"]


def test_keep_none_leaves_only_the_sections(pytester: pytest.Pytester, failures: Failures) -> None:
    pytester.makepyfile(
        """
        import pytest
        @pytest.mark.container(keep="none")
        def test_mark(container): container.run("touch /etc/new; false")
        """
    )

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*- rootfs changes -*", "added     /etc/new"])
    result.stdout.no_fnmatch_line("*rootfs failures*")
    assert failures(result) == []


def test_keep_all_keeps_passed_tests(pytester: pytest.Pytester, failures: Failures) -> None:
    pytester.makepyfile(
        """
        import pytest
        def test_passes(container): container.path("/etc/new").touch()
        @pytest.mark.container(keep="failed")
        def test_not_this(container): pass
        """
    )

    result = pytester.runpytest_subprocess("--rootfs-keep=all", "-W", "error")

    result.assert_outcomes(passed=2)
    [kept] = failures(result)
    assert (kept["outcome"], kept["when"], len(kept["changes"])) == ("passed", "teardown", 1)
    result.stdout.fnmatch_lines(["*= rootfs kept =*", "*::test_passes  passed, 1 change, *"])


@needs("memory")
def test_memory_limit_has_a_section(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        @pytest.mark.container(memory="16M")
        def test_it(container): container.run("head -c 64M /dev/zero | tail -c 64M > /dev/null")
        """
    )

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*out of memory*", "*- rootfs limits -*", "memory: *"])


def test_junit_gets_properties(pytester: pytest.Pytester, failures: Failures) -> None:
    pytester.makepyfile(
        """
        def test_fails(container): assert False
        def test_passes(container): pass
        """
    )

    result = pytester.runpytest_subprocess("--junitxml=junit.xml")

    cases = ET.parse(pytester.path / "junit.xml").iter("testcase")
    found = {
        case.get("name"): {each.get("name"): each.get("value") for each in case.iter("property")}
        for case in cases
    }
    failure = failures(result)[0]
    peak = failure["stats"]["memory_peak_bytes"]
    expected = {"rootfs_image": "minimal", "rootfs_failure": failure["id"]}
    if peak is not None:
        expected["rootfs_memory_peak"] = str(peak)
    passed = {"rootfs_image": "minimal"}
    if peak is not None:
        passed["rootfs_memory_peak"] = str(found["test_passes"]["rootfs_memory_peak"])
    assert found == {"test_fails": expected, "test_passes": passed}


def test_quiet_and_no_summary_are_honoured(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_fails(container): assert False")

    quiet = pytester.runpytest_subprocess("-q")
    silent = pytester.runpytest_subprocess("--no-summary")

    quiet.stdout.no_fnmatch_line("rootfs: *")
    quiet.stdout.fnmatch_lines(["*pytest-rootfs shell ??????"])
    silent.stdout.no_fnmatch_line("*pytest-rootfs shell*")


def test_broken_keeping_never_changes_the_outcome(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import pytest
        from pytest_rootfs import failures

        @pytest.fixture(autouse=True)
        def no_keeping(monkeypatch):
            def publish(*_, **__): raise OSError(28, "No space left on device")
            monkeypatch.setattr(failures, "publish", publish)
        """
    )
    pytester.makepyfile(
        """
        def test_passes(container): pass
        def test_fails(container): assert False, "the reason"
        """
    )

    result = pytester.runpytest_subprocess("--rootfs-keep=all", "-rA")

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "E  *the reason",
            "*- rootfs failure -*",
            "not kept: No space left on device",
        ]
    )


def test_dead_container_is_kept(pytester: pytest.Pytester, failures: Failures) -> None:
    pytester.makepyfile(
        """
        import os, signal

        def test_it(container):
            container.path("/etc/new").touch()
            os.kill(container.pid, signal.SIGKILL)
            container.run("true")
        """
    )

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E  *ContainerDied: *SIGKILL*"])
    assert [len(each["changes"]) for each in failures(result)] == [1]
