"""What the plugin costs a suite: counted in modules, which do not vary as times do.

`python -m benchmarks start` measures the times.
"""

from __future__ import annotations

import pytest
from features import needs

UNUSED = {
    "pytest_rootfs",
    "pytest_rootfs.fixtures",
    "pytest_rootfs.hooks",
    "pytest_rootfs.options",
    "pytest_rootfs.plugin",
    "pytest_rootfs.session",
    "pytest_rootfs.settings",
}
"""What every quiet run of pytest imports where the package is installed."""

MARKED = UNUSED | {
    "pytest_rootfs.kernel",
    "pytest_rootfs.kernel.capabilities",
    "pytest_rootfs.marks",
    "pytest_rootfs.runtime",
    "pytest_rootfs.runtime.spec",
}
"""What the check of a mark adds."""

HEAD = UNUSED | {
    "pytest_rootfs.head",
    "pytest_rootfs.kernel",
    "pytest_rootfs.kernel.cgroups_layout",
    "pytest_rootfs.kernel.cgroups_places",
    "pytest_rootfs.kernel.cgroups_reasons",  # where a limit cannot be enforced
    "pytest_rootfs.kernel.cgroups_rights",
    "pytest_rootfs.kernel.proc_files",
    "pytest_rootfs.runtime",
    "pytest_rootfs.runtime.gaps",
    "pytest_rootfs.runtime.surroundings",
}
"""What the line of the head adds, which tells how containers run here."""

IDS = {"pytest_rootfs.runtime.ids", "pytest_rootfs.runtime.subordinate_ids"}
"""What it adds for an ordinary user."""

CONFTEST = """
    import sys

    def pytest_unconfigure():
        with open("modules", "w") as file:
            print(*sys.modules, sep="\\n", file=file)
"""
PLAIN = "def test_it(): pass"
MARKED_ONLY = """
    import pytest

    @pytest.mark.container(memory="64M")
    @pytest.mark.parametrize("number", range(3))
    def test_it(number): pass
"""


def modules_of(pytester: pytest.Pytester, test: str, *options: str) -> set[str]:
    """Return what a run of pytest has imported at its end."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test)
    blocked = ("hypothesispytest", "xdist", "html", "metadata", "rerunfailures")
    others = [option for name in blocked for option in ("-p", f"no:{name}")]
    assert pytester.runpytest_subprocess(*others, *options).ret == 0
    return set((pytester.path / "modules").read_text().split())


def ours(modules: set[str]) -> set[str]:
    return {name for name in modules if name.partition(".")[0] == "pytest_rootfs"}


def test_unused_plugin_imports_nothing_more(pytester: pytest.Pytester) -> None:
    assert ours(modules_of(pytester, PLAIN, "-q")) - UNUSED == set()


@pytest.mark.parametrize(("option", "needed"), [("-q", set()), ("--verbosity=0", {"pwd"})])
def test_unused_plugin_imports_no_library(
    pytester: pytest.Pytester, option: str, needed: set[str]
) -> None:
    without = modules_of(pytester, PLAIN, option, "-p", "no:rootfs", "-p", "no:rootfs.fixtures")
    with_plugin = modules_of(pytester, PLAIN, option)

    assert with_plugin - without - ours(with_plugin) - needed == set()


def test_modules_are_not_loaded_to_be_rewritten(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(  # a distribution that is no editable one has pytest do this
        early="import pytest; pytest.register_assert_rewrite('pytest_rootfs')",
        test_it="""
            import sys

            def test_it():
                hook = next(each for each in sys.meta_path if "assertion" in type(each).__module__)
                named = {name for name in sys.modules if name.startswith("pytest_rootfs.")}
                assert "pytest_rootfs.options" in named
                assert named & hook._rewritten_names.keys() == set()
        """,
    )

    pytester.runpytest_subprocess("-p", "early").assert_outcomes(passed=1)


def test_finder_of_modules_leaves_at_the_end(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(PLAIN)
    program = """
        import atexit, sys

        def tell():
            print("finders", len(sys.meta_path) - before)

        atexit.register(tell)  # runs after those that come later
        import pytest

        before = len(sys.meta_path)
        pytest.main(["-q", "-p", "no:rerunfailures"])
        print("in use", len(sys.meta_path) - before)
    """
    script = pytester.makepyfile(program=program)

    result = pytester.runpython(script)

    result.stdout.fnmatch_lines(["in use 1", "finders 0"])


def test_finder_of_modules_passes_over_old_finders(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import sys
        from types import SimpleNamespace

        sys.meta_path.append(SimpleNamespace(find_module=lambda name, path=None: None))
        """
    )
    pytester.makepyfile(
        """
        import pytest

        def test_it():
            with pytest.raises(ModuleNotFoundError):
                import pytest_rootfs.nothing
        """
    )

    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_check_of_marks_imports_only_what_checks(pytester: pytest.Pytester) -> None:
    assert ours(modules_of(pytester, MARKED_ONLY, "-q")) - MARKED == set()


def test_head_imports_only_what_looks(pytester: pytest.Pytester) -> None:
    assert ours(modules_of(pytester, PLAIN)) - HEAD - IDS == set()


@needs("root")
def test_head_of_root_looks_for_no_ids(pytester: pytest.Pytester) -> None:
    assert ours(modules_of(pytester, PLAIN)) & IDS == set()


def test_head_tells_how_containers_run(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(PLAIN)

    pytester.runpytest_subprocess().stdout.fnmatch_lines(["rootfs: *image minimal *"])


@pytest.mark.parametrize("option", ["-q", "--no-header"])
def test_head_is_silent_when_asked_to_be(pytester: pytest.Pytester, option: str) -> None:
    pytester.makepyfile(PLAIN)

    pytester.runpytest_subprocess("--co", option).stdout.no_fnmatch_line("rootfs: *")


def test_mark_of_siblings_is_checked_once(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        from pytest_rootfs import marks

        def pytest_configure():
            merge = marks.merge
            marks.merge = lambda said: print("checked") or merge(said)
        """
    )
    pytester.makepyfile(MARKED_ONLY)

    result = pytester.runpytest_subprocess("-s")

    result.assert_outcomes(passed=3)
    assert result.outlines.count("checked") == 1
