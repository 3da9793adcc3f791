"""A fork belongs to the test that made it, as the container that it came from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from features import needs

pytestmark = needs("userns")

Failures = Callable[[pytest.RunResult], list[dict[str, Any]]]


def test_failure_keeps_forks_too(pytester: pytest.Pytester, failures: Failures) -> None:
    pytester.makepyfile(
        test_it="""
        def test_fails(container):
            container.run("echo > /one")
            container.fork("other").run("echo > /two")
            container.reset(container.snapshot())
            assert False
        """
    )

    result = pytester.runpytest_subprocess("-W", "error")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "container rootfs-* (minimal):",
            "added     /one",
            "container other (minimal):",
            "added     /one",
            "added     /two",
            "*3 changes in 2 containers*",
        ]
    )
    failure = failures(result)[0]
    assert [each["path"] for each in failure["changes"]] == ["/one"]
    (other,) = failure["containers"]
    assert [each["path"] for each in other["changes"]] == ["/one", "/two"]


def test_fork_ends_with_its_fixture(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        def pytest_rootfs_container_started(item, container):
            print("started", item.name, container.name)

        def pytest_rootfs_container_stopped(item, container, stats):
            print("stopped", item.name, container.name)
        """
    )
    pytester.makepyfile(
        """
        FORKS = []

        def test_one(container):
            FORKS.append(container.fork("one"))
            FORKS.append(FORKS[0].fork("two"))
            container.close()
            assert FORKS[1].run("true").returncode == 0

        def test_two(container_factory):
            assert all(fork.is_closed for fork in FORKS)
            with container_factory(name="template") as template, template.fork("copy") as copy:
                copy.run("true")
        """
    )

    result = pytester.runpytest_subprocess("-s", "-W", "error")

    result.assert_outcomes(passed=2)
    told = [line.strip(".") for line in result.outlines if "ed test_" in line]
    assert told[1:5] == [
        "started test_one one",
        "started test_one two",
        "stopped test_one two",
        "stopped test_one one",
    ]
    assert {"started test_two copy", "stopped test_two copy"} <= set(told)
