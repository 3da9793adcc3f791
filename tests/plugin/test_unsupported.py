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
UNSUPPORTED = """
    import pytest
    from pytest_rootfs.errors import HostUnsupported
    from pytest_rootfs.session import Session

    def refuse(self): raise HostUnsupported("no namespaces here", hint="another kernel")

    Session._make_engine = refuse
"""


def test_unsupported_host_skips(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS)
    pytester.makeconftest(UNSUPPORTED)

    result = pytester.runpytest_subprocess("-rs", "-W", "error")

    result.assert_outcomes(passed=1, skipped=3)
    result.stdout.fnmatch_lines(["SKIPPED [[]3] *: *"])
    assert result.ret == pytest.ExitCode.OK


@pytest.mark.parametrize("by", ["option", "ci"])
def test_unsupported_host_may_fail(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    pytester.makepyfile(TESTS)
    pytester.makeconftest(UNSUPPORTED)
    if by == "ci":
        monkeypatch.setenv("CI", "true")
    options = ["--rootfs-unsupported=fail"] if by == "option" else []

    result = pytester.runpytest_subprocess(*options)

    result.assert_outcomes(passed=1, errors=3)
    result.stdout.fnmatch_lines(["E  *HostUnsupported: *"])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


@pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["alone", "xdist"])
@pytest.mark.parametrize(
    ("store", "reason"),
    [
        ("/etc/passwd", "Not a directory"),
        ("/dev/null", "Not a directory"),
        ("/proc/pytest-rootfs", "No such file or directory"),
    ],
)
def test_unusable_store_is_a_usage_error(
    pytester: pytest.Pytester, store: str, reason: str, workers: list[str]
) -> None:
    if workers:
        pytest.importorskip("xdist")
    pytester.makepyfile(TESTS)

    result = pytester.runpytest_subprocess(f"--rootfs-store={store}", *workers)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [f"ERROR: the store cannot be in {store}: {reason}", "hint: *--rootfs-store=DIR"]
    )
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


def test_unusable_store_of_no_container_test_is_ignored(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_plain(): pass")

    pytester.runpytest_subprocess("--rootfs-store=/etc/passwd").assert_outcomes(passed=1)


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


def test_store_that_is_removed_meanwhile_is_told(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import shutil, pytest

        def test_first(container): shutil.rmtree("store")
        def test_same(container): pass
        @pytest.mark.container(image="scratch")
        def test_other(container): pass
        """
    )

    result = pytester.runpytest_subprocess("--rootfs-store=store", "-p", "no:cacheprovider")

    result.assert_outcomes(passed=1, errors=2)
    told = f"*StoreUnusable: the store {pytester.path}/store was removed while this session used it"
    result.stdout.fnmatch_lines([told, told])
