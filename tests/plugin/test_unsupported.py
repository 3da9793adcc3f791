"""When the host cannot run containers, or not with a limit that was asked for."""

from __future__ import annotations

import pytest

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


def test_missing_limit_is_an_error(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import pytest
        from pytest_rootfs.engine import Engine
        from pytest_rootfs.errors import LimitUnavailable

        @pytest.fixture(autouse=True)
        def no_limits(monkeypatch):
            def start(*_, **__): raise LimitUnavailable("no memory limit here", hint="do this")
            monkeypatch.setattr(Engine, "start", start)
        """
    )
    pytester.makepyfile("def test_it(container): pass")

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["E  *LimitUnavailable: no memory limit here", "E  *hint: do this"])


def test_missing_limit_may_be_a_warning(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        def pytest_rootfs_container_started(item, container):
            item.config.pluginmanager  # any item
            from pytest_rootfs.plugin import SESSION
            item.config.stash[SESSION].engine._warn("the limit memory is not enforced")
        """
    )
    pytester.makepyfile("def test_it(container): pass")

    result = pytester.runpytest_subprocess("--rootfs-limits=best-effort")

    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*PytestWarning: the limit memory is not enforced"])
