"""A shell in the live container, by `--rootfs-shell` and from the debugger."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from features import needs

pytestmark = needs("userns")

FAILING = """
    def test_fails(container):
        container.path("/etc/mine").write_text("of the test")
        assert False
    def test_passes(container): pass
"""


def test_shell_opens_at_a_failure(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(FAILING)

    result = pytester.run(
        *pytester._getpytestargs(), "--rootfs-shell", stdin=b"cat /etc/mine; echo; exit 5\n"
    )

    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(
        [
            "E  *assert False*",
            ">*shell in container rootfs-*>",
            "of the test",
            "*1 failed, 1 passed*",
        ]
    )


def test_shell_at_a_failure_has_the_terminal(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(FAILING)

    with terminal([*pytester._getpytestargs(), "--rootfs-shell"], pytester.path) as expect:
        expect("(rootfs-", "cat /etc/mine; test -t 0 && echo on-a-$((1+1))-terminal\n")
        seen = expect("on-a-2-terminal", "exit\n")
        expect("1 failed, 1 passed", "")

    assert "of the test" in seen


def test_shell_is_refused_under_xdist(pytester: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    pytester.makepyfile(FAILING)

    result = pytester.runpytest_subprocess("--rootfs-shell", "-n2")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --rootfs-shell is incompatible with distributing tests*"])


def test_image_without_shell_is_told(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        @pytest.mark.container("scratch")
        def test_fails(container): assert False
        """
    )

    result = pytester.run(*pytester._getpytestargs(), "--rootfs-shell", stdin=b"")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*has no shell*"])


def test_debugger_offers_a_shell(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(FAILING)

    with terminal([*pytester._getpytestargs(), "--pdb"], pytester.path) as expect:
        expect("(Pdb) ", "rootfs_shell\n")
        expect("(rootfs-", "cat /etc/mine\n")
        expect("of the test", "exit\n")
        expect("(Pdb) ", "continue\n")
        shown = expect("1 failed, 1 passed", "")

    assert "pytest-rootfs shell" in shown


Expect = Callable[[str, str], str]


@contextmanager
def terminal(argv: list[str], cwd: Path) -> Iterator[Expect]:
    """Run a program on a terminal of its own; the value waits for a text, then types another."""
    ours, theirs = pty.openpty()
    program = subprocess.Popen(
        argv, cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)

    def expect(text: str, answer: str) -> str:
        shown = ""
        deadline = time.monotonic() + 30
        while text not in shown:
            if not select.select([ours], [], [], deadline - time.monotonic())[0]:
                raise TimeoutError(f"{text!r} was never shown, only {shown!r}")
            shown += os.read(ours, 65536).decode()
        os.write(ours, answer.encode())
        return shown

    try:
        yield expect
        program.wait(timeout=30)
    finally:
        program.kill()
        program.wait()
        os.close(ours)
