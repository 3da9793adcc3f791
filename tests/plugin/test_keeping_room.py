"""How many failures stay in the store, and that those before them leave nothing."""

from __future__ import annotations

import pytest
from features import needs

pytestmark = needs("userns")


def test_old_failures_make_room(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        @pytest.mark.parametrize("number", range(5))
        def test_it(container, number): assert False
        """
    )
    pytester.makeini("[pytest]\nrootfs_keep_count = 2")

    result = pytester.runpytest_subprocess("--rootfs-store=store")

    result.assert_outcomes(failed=5)
    assert len(list((pytester.path / "store" / "failures").iterdir())) == 2
    result.stdout.fnmatch_lines(
        [
            "??????  *::test_it[[]3] *",
            "??????  *::test_it[[]4] *",
            "3 older failures of this session were removed (rootfs_keep_count, rootfs_keep_size)",
        ]
    )
    result.stdout.no_fnmatch_line("??????  *::test_it[[]2] *")


@pytest.mark.parametrize("count", [4, 5])
def test_layers_of_old_failures_are_freed(pytester: pytest.Pytester, count: int) -> None:
    pytester.makepyfile(
        f"""
        import os, pytest
        @pytest.mark.container("scratch")
        @pytest.mark.parametrize("number", range({count}))
        def test_it(container, number):
            container.path("/file").write_bytes(os.urandom(1 << 20))
            assert False
        """
    )
    pytester.makeini("[pytest]\nrootfs_keep_count = 2")

    pytester.runpytest_subprocess("--rootfs-store=store").assert_outcomes(failed=count)

    blobs = (pytester.path / "store" / "blobs" / "sha256").iterdir()
    assert len([blob for blob in blobs if blob.stat().st_size > 1 << 20]) == 2
    assert list((pytester.path / "store" / "trash").iterdir()) == []


def test_killed_sessions_leave_no_more_than_is_kept(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import os, pytest
        @pytest.mark.container("scratch")
        @pytest.mark.parametrize("number", range(3))
        def test_it(container, number):
            if number == 2: os.kill(os.getpid(), 9)
            assert False
        """
    )
    pytester.makeini("[pytest]\nrootfs_keep_count = 3")

    for _ in range(3):
        pytester.runpytest_subprocess("--rootfs-store=store")

    # of each session two, and the oldest of all went when the third kept its first
    assert len(list((pytester.path / "store" / "failures").iterdir())) <= 5
