"""Values of secret environment variables are nowhere in what a failure leaves."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
from features import needs

pytestmark = needs("userns")

Failures = Callable[[pytest.RunResult], list[dict[str, Any]]]

SECRETS = {"mark": "of-the-mark-1", "call": "of-the-call-2", "image": "of-the-image-3"}
TEST = """
    import pytest
    from pytest_rootfs import Image

    APP = Image("minimal").env(IMAGE_TOKEN="of-the-image-3")

    @pytest.mark.container(APP, env={"MARK_PASSWORD": "of-the-mark-1", "URL": "a:of-the-mark-1@b"})
    def test_it(container):
        env = {"CALL_SECRET": "of-the-call-2"}
        daemon = container.popen(["sleep", "1000", "--", "of-the-call-2"][:2], env=env)
        container.popen(["sh", "-c", "sleep 1000; : of-the-call-2"])
        print("captured of-the-mark-1")
        container.run("echo $IMAGE_TOKEN of-the-mark-1")
        done = container.run("echo $CALL_SECRET", env=env)
        assert done.stdout == "of-the-image-3"
"""


def test_secrets_are_in_no_report_and_no_record(
    pytester: pytest.Pytester, failures: Failures
) -> None:
    pytester.makepyfile(test_it=TEST.replace('"of-the-call-2", "of', '"of'))

    result = pytester.runpytest_subprocess(
        "--junitxml=junit.xml", "--html=page.html", "--rootfs-output=out", "-l", "--tb=short"
    )

    result.assert_outcomes(failed=1)
    [failure] = failures(result)
    assert failure["env"]["IMAGE_TOKEN"] == failure["env"]["MARK_PASSWORD"] == "***"
    assert failure["masked_env"] == ["IMAGE_TOKEN", "MARK_PASSWORD", "URL"]
    assert failure["env"]["URL"] == "a:***@b"
    assert failure["message"].startswith("AssertionError: assert '***\\n' == '***'")
    folder = pytester.path / "out" / f"{failure['id']}-test_it"
    layers = {
        digest.partition(":")[2] for digest in (*failure["image"]["layers"], failure["layer"])
    }
    written = [
        *(path for path in folder.rglob("*") if path.is_file() and path.name not in layers),
        pytester.path / "junit.xml",
        pytester.path / "page.html",
    ]
    assert any(b"MARK_PASSWORD=***" in path.read_bytes() for path in written)
    said = {"report": result.stdout.str()} | {path.name: path.read_text() for path in written}
    left = {
        (name, each) for name, text in said.items() for each in SECRETS.values() if each in text
    }
    assert left == set()


def test_users_globs_are_used(pytester: pytest.Pytester, failures: Failures) -> None:
    pytester.makeini("[pytest]\nrootfs_secret_env = MINE_*\n    OTHER")
    pytester.makepyfile(
        """
        import pytest
        @pytest.mark.container(env={"MINE_1": "hunter22", "A_TOKEN": "shown", "OTHER": "hunter33"})
        def test_it(container): assert False
        """
    )

    result = pytester.runpytest_subprocess()

    [failure] = failures(result)
    shown = {name: failure["env"][name] for name in ("MINE_1", "A_TOKEN", "OTHER")}
    assert shown == {"MINE_1": "***", "A_TOKEN": "shown", "OTHER": "***"}


def test_image_s_own_secrets_are_there_again(pytester: pytest.Pytester, failures: Failures) -> None:
    pytester.makepyfile(
        """
        import pytest
        from pytest_rootfs import Image

        IMAGE = Image("minimal").env(IMAGE_TOKEN="of-the-image-3")

        @pytest.mark.container(IMAGE, env={"MARK_TOKEN": "of-the-mark-1"})
        def test_it(container):
            assert container.run("printf $IMAGE_TOKEN$MARK_TOKEN").stdout == ""
        """
    )
    [failure] = failures(pytester.runpytest_subprocess())

    cli = [sys.executable, "-m", "pytest_rootfs"]
    said = pytester.run(*cli, "exec", failure["id"], "--", "env")
    again = pytester.runpytest_subprocess(f"--rootfs-from-failure={failure['id']}")

    said.stdout.fnmatch_lines(["IMAGE_TOKEN=of-the-image-3"])
    said.stdout.no_fnmatch_line("MARK_TOKEN=*")
    said.stderr.fnmatch_lines(["note: not set, as secrets are not kept: MARK_TOKEN; *"])
    again.stdout.fnmatch_lines(["E  *AssertionError: assert '******' == ''"])
