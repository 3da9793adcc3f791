"""A suite that uses no container behaves as without the plugin."""

from __future__ import annotations

import pytest

PLAIN = """
    import pytest, sys

    @pytest.fixture(params=[1, 2])
    def number(request): return request.param

    def test_passes(number): pass
    def test_fails(): assert 1 == 2
    def test_skips(): pytest.skip("why not")
    @pytest.mark.xfail
    def test_expected(): assert False
    @pytest.mark.container
    def test_labelled(): pass
"""
HEAVY = ("ctypes", "tenacity", "pyroute2", "rich", "tarfile", "urllib3")


def test_plain_suite_runs_as_before(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(PLAIN)

    result = pytester.runpytest_subprocess("-W", "error")

    result.assert_outcomes(passed=3, failed=1, skipped=1, xfailed=1)
    result.stdout.no_fnmatch_line("*rootfs failure*")


def test_plain_suite_starts_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(PLAIN)
    pytester.makeconftest(
        f"""
        import os, sys

        def pytest_unconfigure():
            ours = sorted(name for name in sys.modules if name.startswith("pytest_rootfs"))
            print("loaded", ours, [name for name in {HEAVY!r} if name in sys.modules])
            print("store", os.path.exists({str(pytester.path / "store")!r}))
        """
    )

    result = pytester.runpytest_subprocess("-p", "no:xdist", "--rootfs-store=store", "-s")

    loaded = next(line for line in result.outlines if line.startswith("loaded"))
    assert loaded.endswith("[]"), loaded
    for name in ("engine", "marks", "attempts", "keeping", "errors"):
        assert f"'pytest_rootfs.{name}'" not in loaded
    assert "store False" in result.outlines


def test_switched_off_plugin_is_absent(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(PLAIN)

    result = pytester.runpytest_subprocess("-p", "no:rootfs", "--strict-markers", "-W", "error")

    result.assert_outcomes(passed=3, failed=1, skipped=1, xfailed=1)
    assert "--rootfs-image" not in pytester.runpytest_subprocess("-p", "no:rootfs", "-h").outlines


@pytest.mark.parametrize(
    "fixture", ["container", "rootfs_container", "container_factory", "rootfs_image"]
)
def test_switched_off_plugin_explains_itself(pytester: pytest.Pytester, fixture: str) -> None:
    pytester.makepyfile(f"def test_it({fixture}): pass")

    result = pytester.runpytest_subprocess("-p", "no:rootfs")

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["container fixtures need the plugin `rootfs`, which is switched off (-p no:rootfs)"]
    )


def test_both_plugins_can_be_switched_off(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(container): pass")

    result = pytester.runpytest_subprocess("-p", "no:rootfs", "-p", "no:rootfs.fixtures")

    result.stdout.fnmatch_lines(["*fixture 'container' not found*"])


@pytest.mark.parametrize("option", ["--collect-only", "--setup-plan", "--fixtures-per-test"])
def test_looking_at_tests_starts_nothing(pytester: pytest.Pytester, option: str) -> None:
    pytester.makepyfile("def test_it(container, container_factory): pass")

    result = pytester.runpytest_subprocess(option, "--rootfs-store=store", "--rootfs-image=nope")

    assert result.ret == pytest.ExitCode.OK
    assert not (pytester.path / "store").exists()


@pytest.mark.parametrize("inner", [[], ["-p", "no:rootfs"]], ids=["with", "without"])
def test_run_inside_a_run_is_one_of_its_own(pytester: pytest.Pytester, inner: list[str]) -> None:
    pytester.makepyfile(
        inner="def test_it(container): container.run('echo inner > /who')",
        test_outer=f"""
        import pytest

        def test_it(container):
            code = pytest.main([*{inner!r}, "-p", "no:cacheprovider", "inner.py"])
            assert code == {int(bool(inner))}
            assert not container.path("/who").exists()

        def test_next(container): container.run("true")
        """,
    )

    result = pytester.runpytest_subprocess("test_outer.py")

    result.assert_outcomes(passed=2)


def test_config_that_runs_nothing_takes_nothing_over(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("pytest_plugins = 'pytester'")
    pytester.makepyfile(
        """
        def test_it(request, pytester):
            pytester.parseconfigure("--rootfs-image=scratch")
            container = request.getfixturevalue("container")
            container.run("true")
            assert False
        """
    )

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*= rootfs failures*", "*test_it*"])


def test_image_fixture_that_forgets_to_return_is_named(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def rootfs_image(): pass

        def test_it(container): pass
        """
    )

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["E *ValueError: rootfs_image is None: let the fixture return *"])
