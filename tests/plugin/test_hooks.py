"""The hooks pytest_rootfs_*, implemented in a conftest.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from features import needs

pytestmark = needs("userns")


def test_hooks_are_called_in_order(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        def pytest_rootfs_container_config(item, config):
            print("config", item.name, sorted(config))
            config["env"] = {"HOOK": "1"}

        def pytest_rootfs_container_started(item, container):
            print("started", item.name, container.name)

        def pytest_rootfs_collect_failure(item, container, failure):
            print("collect", item.name, container.name, failure.when)

        def pytest_rootfs_failure_kept(config, failure):
            print("kept", config.rootpath.name, failure.nodeid)

        def pytest_rootfs_container_stopped(item, container, stats):
            print("stopped", item.name, container.name, type(stats).__name__)
        """
    )
    pytester.makepyfile(
        test_it="""
        import pytest
        @pytest.mark.container(timeout=9)
        def test_hooks(container, rootfs_container):
            print("run", container.run("echo $HOOK").stdout)
            assert False
        """
    )

    result = pytester.runpytest_subprocess("-s", "-q", "--show-capture=no", "--tb=no")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "config test_hooks [[]'capabilities', *'image', *'timeout', *'workdir']",
            "started test_hooks rootfs-*",
            "run 1",
            "*collect test_hooks rootfs-* call",
            "kept test_hooks_are_called_in_order0 test_it.py::test_hooks",
            "*stopped test_hooks rootfs-* Stats",
        ],
        consecutive=False,
    )


def test_closed_container_is_told_once(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        def pytest_rootfs_container_stopped(item, container, stats):
            print("stopped", item.name, container.name, type(stats).__name__)
        """
    )
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="module")
        def shared(container_factory): return container_factory(name="shared")

        def test_one(container_factory, shared): container_factory(name="own").close()
        def test_two(shared): pass
        """
    )

    result = pytester.runpytest_subprocess("-s", "-W", "error")

    result.assert_outcomes(passed=2)
    told = [line for line in result.outlines if "stopped" in line]
    assert [line.partition("stopped ")[2] for line in told] == [
        "test_one own Stats",
        "test_two shared Stats",
    ]


def test_hook_adds_files_to_a_failure(
    pytester: pytest.Pytester, failures: Callable[[pytest.RunResult], list[dict[str, Any]]]
) -> None:
    pytester.makeconftest(
        """
        def pytest_rootfs_collect_failure(item, container, failure):
            (failure.folder / "log.txt").write_text(container.path("/var/log").name)
        """
    )
    pytester.makepyfile("def test_it(container): assert False")

    result = pytester.runpytest_subprocess("--rootfs-output=out")

    [failure] = failures(result)
    copied = pytester.path / "out" / f"{failure['id']}-test_it" / "log.txt"
    assert copied.read_text() == "log"


def test_hook_resolves_images(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        from pytest_rootfs import Image

        def pytest_rootfs_resolve_image(config, reference):
            return {"ours": Image("minimal").file("/ours", "1"), "theirs": "scratch"}.get(reference)
        """
    )
    pytester.makepyfile(
        """
        import pytest

        def test_default(container): assert container.path("/ours").exists()
        @pytest.mark.container("theirs")
        def test_mark(container): assert container.image.name == "scratch"
        def test_factory(container_factory):
            assert container_factory("ours").path("/ours").exists()
        """
    )

    pytester.runpytest_subprocess("--rootfs-image=ours").assert_outcomes(passed=3)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("raise ValueError('of the hook')", "failed for the image 'minimal'"),
        ("return 5", "returned 5 for the image 'minimal'"),
    ],
)
def test_broken_image_hook_is_a_usage_error(
    pytester: pytest.Pytester, body: str, says: str
) -> None:
    pytester.makeconftest(f"def pytest_rootfs_resolve_image(config, reference): {body}")
    pytester.makepyfile("def test_it(container): pass")

    result = pytester.runpytest_subprocess()

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: *: the hook pytest_rootfs_resolve_image {says}"])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


def test_broken_failure_hook_is_reported(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        def pytest_rootfs_collect_failure(item, container, failure):
            raise ValueError("of the hook")
        """
    )
    pytester.makepyfile("def test_it(container): assert False, 'of the test'")

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E  *of the test*",
            "*- rootfs failure -*",
            "pytest_rootfs_collect_failure: ValueError: of the hook",
            "*pytest-rootfs shell*",
        ]
    )


def test_failing_start_hook_leaves_no_container(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        def pytest_rootfs_container_started(item, container):
            item.config.seen = container
            raise ValueError("of the hook")

        def pytest_unconfigure(config): print("closed", config.seen.is_closed)
        """
    )
    pytester.makepyfile("def test_it(container): pass")

    result = pytester.runpytest_subprocess("-s")

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["E  *ValueError: of the hook", "closed True"])


def test_misspelt_hook_argument_is_told(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("def pytest_rootfs_failure_kept(fail): pass")

    result = pytester.runpytest_subprocess()

    result.stderr.fnmatch_lines(["*hook 'pytest_rootfs_failure_kept'*"])
