"""With pytest-xdist and pytest-rerunfailures, and when a session is cut short."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from features import needs

pytestmark = needs("userns")

Failures = Callable[[pytest.RunResult], list[dict[str, Any]]]


def test_workers_report_to_the_controller(pytester: pytest.Pytester, failures: Failures) -> None:
    pytest.importorskip("xdist")
    pytester.makepyfile(
        """
        import pytest
        @pytest.mark.parametrize("number", range(6))
        def test_it(container, number):
            container.path(f"/etc/{number}").touch()
            assert number % 2
        """
    )

    result = pytester.runpytest_subprocess("-n", "2", "--junitxml=junit.xml", "-W", "error")

    result.assert_outcomes(passed=3, failed=3)
    result.stdout.fnmatch_lines(["*- rootfs changes -*", "*= rootfs failures =*"])
    found = sorted(each["changes"][0]["path"] for each in failures(result))
    assert found == ["/etc/0", "/etc/2", "/etc/4"]
    assert (pytester.path / "junit.xml").read_text().count('name="rootfs_failure"') == 3


def test_controller_sweeps(pytester: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    pytester.makepyfile(
        """
        import pytest
        @pytest.mark.parametrize("number", range(5))
        def test_it(container, number): assert False
        """
    )

    result = pytester.runpytest_subprocess(
        "-n", "2", "--rootfs-store=store", "-o", "rootfs_keep_count=2"
    )

    result.assert_outcomes(failed=5)
    assert len(list((pytester.path / "store" / "failures").iterdir())) == 2


def test_images_are_distributed(pytester: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    pytester.makepyfile(
        """
        def test_one(container): pass
        def test_two(container_factory): container_factory().close()
        """
    )

    result = pytester.runpytest_subprocess(
        "-n", "2", "--rootfs-image=minimal", "--rootfs-image=scratch"
    )

    result.assert_outcomes(passed=4)


def test_values_of_a_conftest_come_before_the_images(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        def pytest_generate_tests(metafunc):
            metafunc.parametrize("value", ["x"])
        """
    )
    pytester.makepyfile("def test_it(container, value): pass")

    result = pytester.runpytest_subprocess(
        "--co", "-q", "--rootfs-image=minimal", "--rootfs-image=scratch"
    )

    assert [line.partition("::")[2] for line in result.outlines[:2]] == [
        "test_it[x-minimal]",
        "test_it[x-scratch]",
    ]


def test_failure_that_a_fork_kept_is_told(pytester: pytest.Pytester, failures: Failures) -> None:
    pytester.makeconftest(
        """
        import json, os
        import pytest
        from _pytest.runner import runtestprotocol

        @pytest.fixture
        def rootfs_image():
            return "minimal"

        @pytest.hookimpl(tryfirst=True)
        def pytest_runtest_protocol(item, nextitem):
            hook, config = item.config.hook, item.config
            if os.fork() == 0:
                reports = runtestprotocol(item, log=False, nextitem=nextitem)
                with open("reports", "w") as file:
                    json.dump([
                        hook.pytest_report_to_serializable(config=config, report=report)
                        for report in reports
                    ], file)
                os._exit(0)
            os.wait()
            for data in json.load(open("reports")):
                report = hook.pytest_report_from_serializable(config=config, data=data)
                hook.pytest_runtest_logreport(report=report)
            return True
        """
    )
    pytester.makepyfile("def test_it(container): assert False")

    result = pytester.runpytest_subprocess()

    assert len(failures(result)) == 1


def test_each_attempt_is_kept(pytester: pytest.Pytester, failures: Failures) -> None:
    pytest.importorskip("pytest_rerunfailures")
    pytester.makepyfile(
        """
        attempts = []
        def test_it(container):
            attempts.append(container)
            container.path(f"/etc/{len(attempts)}").touch()
            assert len(attempts) == 3
        """
    )

    result = pytester.runpytest_subprocess("--reruns=3", "--junitxml=junit.xml", "-W", "error")

    result.stdout.fnmatch_lines(["*= 1 passed, 2 rerun in *"])
    assert [each["changes"][0]["path"] for each in failures(result)] == ["/etc/1", "/etc/2"]


def test_subtest_is_kept_and_the_test_goes_on(
    pytester: pytest.Pytester, failures: Failures
) -> None:
    if not hasattr(pytest, "Subtests"):
        pytest.skip("subtests came with pytest 9")
    pytester.makepyfile(
        """
        def test_it(container, subtests):
            with subtests.test("bad"):
                container.path("/etc/one").touch()
                assert False
            assert container.run("echo on").stdout == "on\\n"
        """
    )

    result = pytester.runpytest_subprocess()

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert [each["changes"][0]["path"] for each in failures(result)] == ["/etc/one"]


def test_interrupt_closes_everything(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_it(container, container_factory):
            other = container_factory()
            print("pids", container.pid, other.pid)
            raise KeyboardInterrupt
        """
    )

    result = pytester.runpytest_subprocess("-s")

    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.no_fnmatch_line("*rootfs failures*")  # and the leak check finds nothing


def test_exit_first_closes_everything(pytester: pytest.Pytester, failures: Failures) -> None:
    pytester.makepyfile(
        """
        def test_it(container, container_factory):
            container_factory()
            assert False
        def test_not_reached(container): pass
        """
    )

    result = pytester.runpytest_subprocess("-x", "-W", "error")

    result.assert_outcomes(failed=1)
    assert len(failures(result)) == 1
