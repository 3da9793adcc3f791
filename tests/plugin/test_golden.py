"""Golden trees of containers: written by an option, compared without it."""

from __future__ import annotations

import pytest
from features import needs

pytestmark = needs("userns")

TEST = """
    import pytest

    @pytest.mark.parametrize("content", ["same"])
    def test_it(container, content, pytestconfig):
        container.run("mkdir -m 0750 /srv/d; echo same > /srv/d/f; ln -s f /srv/d/l")
        container.run("rm /etc/passwd")
        if pytestconfig.getoption("verbose") > 1:
            container.path("/srv/d/f").write_text("other")
        container.changes().match_golden("tree")
"""


def test_golden_tree_is_written_and_compared(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_it=TEST)

    missing = pytester.runpytest_subprocess()
    written = pytester.runpytest_subprocess("--rootfs-update-golden")
    same = pytester.runpytest_subprocess()
    changed = pytester.runpytest_subprocess("-vv")

    missing.assert_outcomes(failed=1)
    missing.stdout.fnmatch_lines(["E  *there is no golden file *", "E  *--rootfs-update-golden"])
    missing.stdout.no_fnmatch_line("*changeset.py:*")
    written.assert_outcomes(passed=1)
    same.assert_outcomes(passed=1)
    path = pytester.path / "golden" / "test_it" / "tree.txt"
    assert [line.split()[:5] for line in path.read_text().splitlines()[1:]] == [
        ["deleted", "file", "-", "-", "/etc/passwd"],
        ["added", "dir", "0750", "0:0", "/srv/d"],
        ["added", "file", "0644", "0:0", "/srv/d/f"],
        ["added", "symlink", "0777", "0:0", "/srv/d/l"],
    ]
    changed.assert_outcomes(failed=1)
    changed.stdout.fnmatch_lines(
        ["E  *-added    file    0644 0:0 /srv/d/f sha256:*", "E  *+added    file  *sha256:*"]
    )


def test_assert_only_hides_our_frames(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="""
        def test_it(container):
            container.path("/etc/new").touch()
            container.changes().assert_only("/opt/**")
        """
    )

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E  *unmatched   /opt/**", "E  *unexpected  /etc/new (added)"])
    result.stdout.no_fnmatch_line("*changeset.py:*")


def test_bad_name_hides_our_frames(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(container): container.changes().match_golden('../../x')")

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E *name='../../x' is not the name of a golden file: *"])
    result.stdout.no_fnmatch_line("*golden.py:*")


def test_changes_of_a_closed_container_say_so(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_it="""
        import pytest
        from pytest_rootfs.errors import ContainerError

        @pytest.fixture(scope="module")
        def left(container_factory):
            with container_factory() as container:
                container.path("/etc/new").touch()
                yield container.changes()
        def test_first(left): pass
        def test_it(left, container_factory):
            with container_factory() as other:
                found = other.changes()
            other.retain = False
            with pytest.raises(ContainerError, match="is closed: what was in"):
                found.match_golden("x")
        """
    )

    pytester.runpytest_subprocess("--rootfs-update-golden").assert_outcomes(passed=2)
