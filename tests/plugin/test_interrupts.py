"""What pytest itself makes of a Ctrl-C, wherever it falls."""

from __future__ import annotations

import sys

import pytest
from features import needs

pytestmark = needs("userns")


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="here every jump has a line")
def test_an_interrupt_where_the_code_has_no_line_ends_pytest_in_order(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        test_it="""
        import dis, sys

        def gather(values):
            found = []
            for value in values:
                if value:
                    found += value  # the jump after it has no line

        def strike(frame, event, _):
            if frame.f_code is not gather.__code__:
                return None
            frame.f_trace_opcodes = True
            if event == "opcode":
                name = dis.opname[frame.f_code.co_code[frame.f_lasti]]
                if name in ("JUMP_BACKWARD", "JUMP_ABSOLUTE"):
                    sys.settrace(None)
                    raise KeyboardInterrupt
            return strike

        def test_it(container):
            sys.settrace(strike)
            gather([[1], [2]])
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(["*KeyboardInterrupt*", "*no tests ran in*"])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")
