"""When the host cannot run containers, or not with a limit that was asked for."""

from __future__ import annotations

import pytest
from features import needs

TESTS = """
    import pytest

    def test_fixture(container): pass
    def test_factory(container_factory): container_factory()
    def test_builder(image_builder): pass
    def test_plain(): pass
"""
BAD_STORE = "--rootfs-store=/proc/pytest-rootfs"


def test_unsupported_host_skips(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS)

    result = pytester.runpytest_subprocess(BAD_STORE, "-rs", "-W", "error")

    result.assert_outcomes(passed=1, skipped=3)
    result.stdout.fnmatch_lines(["SKIPPED [[]3] *: *"])
    assert result.ret == pytest.ExitCode.OK


@pytest.mark.parametrize("by", ["option", "ci"])
def test_unsupported_host_may_fail(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    pytester.makepyfile(TESTS)
    if by == "ci":
        monkeypatch.setenv("CI", "true")
    options = ["--rootfs-unsupported=fail"] if by == "option" else []

    result = pytester.runpytest_subprocess(BAD_STORE, *options)

    result.assert_outcomes(passed=1, errors=3)
    result.stdout.fnmatch_lines(["E  *HostUnsupported: *"])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


LIMITED = """
    import pytest
    pytestmark = pytest.mark.container(memory="64M")

    def test_one(container): pass
    def test_two(container): pass
"""


@pytest.fixture
def _no_cgroups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_ROOTFS_CGROUP", "/nonexistent")


@needs("userns")
@pytest.mark.usefixtures("_no_cgroups")
def test_missing_limit_is_an_error(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(LIMITED)

    result = pytester.runpytest_subprocess("--rootfs-unsupported=skip")

    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["E  *LimitUnavailable: the limit memory=*", "*hint: *"])


@needs("userns")
@pytest.mark.usefixtures("_no_cgroups")
def test_missing_limit_may_be_a_warning(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(LIMITED)

    result = pytester.runpytest_subprocess("--rootfs-limits=best-effort")

    result.assert_outcomes(passed=2, warnings=1)
    result.stdout.fnmatch_lines(["*PytestWarning: the limit memory is not enforced*"])


@needs("userns")
@pytest.mark.usefixtures("_no_cgroups")
def test_missing_limit_may_be_ignored(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(LIMITED)

    result = pytester.runpytest_subprocess("--rootfs-limits=off", "-W", "error")

    result.assert_outcomes(passed=2)
