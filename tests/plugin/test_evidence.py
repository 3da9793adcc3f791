"""What is told of containers that tests share, of odd tests, and on pages."""

from __future__ import annotations

import base64
import hashlib
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest
from features import needs

pytestmark = needs("userns")

Failures = Callable[[pytest.RunResult], list[dict[str, Any]]]


def test_only_what_is_new_is_marked(pytester: pytest.Pytester, failures: Failures) -> None:
    pytester.makepyfile(
        test_it="""
        import pytest

        @pytest.fixture(scope="module")
        def shared(container_factory):
            container = container_factory(name="shared")
            container.run("echo 1 > /etc/old; echo 1 > /etc/both; rm /etc/passwd")
            return container

        def test_first(shared): shared.run("mkdir /srv/first")
        def test_second(shared):
            shared.run("echo 2 > /etc/new; echo 2 >> /etc/both; rm /etc/group; false")
        """
    )

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*- rootfs changes -*",
            "added     /etc/both",
            "deleted   /etc/group",
            "added     /etc/new",
            "*from before this test",
            "*- rootfs commands -*",
            "… 2 from before this test",
            "$ */etc/new*exit status 1*",
        ]
    )
    [failure] = failures(result)
    told = pytester.run(sys.executable, "-m", "pytest_rootfs", "show", failure["id"])
    told.stdout.fnmatch_lines(["  A /srv/first  (before this test)"])
    since = {each["path"]: each["since_test"] for each in failure["changes"]}
    # names deleted in one folder share the time of the newest
    expected = {
        "/etc/both": True,
        "/etc/group": True,
        "/etc/new": True,
        "/etc/old": False,
        "/srv/first": False,
    }
    assert {path: since[path] for path in expected} == expected


def test_test_file_is_named_with_its_digest(pytester: pytest.Pytester, failures: Failures) -> None:
    path = pytester.mkdir("sub") / "test_it.py"
    path.write_text("def test_it(container): assert False\n")

    result = pytester.runpytest_subprocess("sub")

    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    [failure] = failures(result)
    assert failure["test_file"] == {"path": "sub/test_it.py", "sha256": digest}


def test_odd_tests_are_kept(pytester: pytest.Pytester, failures: Failures) -> None:
    pytester.makepyfile(
        test_ünï="""
            import pytest
            IDS = ["nul\\0", "ünï", "es\\x1b[1mcape", "x" * 5000, "a/b", "..", "\\u202e"]
            @pytest.mark.parametrize("value", IDS)
            def test_it(container, value): assert value == "other", value
            """
    )

    result = pytester.runpytest_subprocess("--rootfs-output=out")

    result.assert_outcomes(failed=7)
    result.stdout.no_fnmatch_line("*not kept*")
    assert len({each["nodeid"] for each in failures(result)}) == 7
    assert len(list((pytester.path / "out").iterdir())) == 7


@pytest.mark.parametrize("workers", [[], ["-n1"]], ids=["alone", "xdist"])
def test_page_has_the_failure(
    pytester: pytest.Pytester, failures: Failures, workers: list[str]
) -> None:
    pytester.makepyfile("def test_it(container): container.run('touch /etc/new; false')")

    result = pytester.runpytest_subprocess("--html=page.html", "--self-contained-html", *workers)

    result.assert_outcomes(failed=1)
    [failure] = failures(result)
    page = (pytester.path / "page.html").read_text()
    assert f"rootfs {failure['id']}" in page and "rootfs changes" in page
    texts = re.findall(r"data:text/plain;(?:charset=utf-8;)?base64,([\w+/=]+)", page)
    assert any(
        f"pytest-rootfs shell {failure['id']}" in text and "added     /etc/new" in text
        for text in (base64.b64decode(each).decode() for each in texts)
    )
