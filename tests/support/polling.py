"""Wait for what happens in another process or thread, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_S = 20.0
"""Far more than anything here needs, on a busy machine, too."""
PAUSE_S = 0.002


def becomes_true(condition: Callable[[], object], timeout_s: float = PATIENCE_S) -> bool:
    """Tell whether a condition holds in time; it is asked at once, and then again and again."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(PAUSE_S)
    return True


def wait_until(condition: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
    """Fail the test unless a condition holds in time."""
    assert becomes_true(condition, timeout_s)
