"""The clock that stamps changes of files: it tells what changed before a moment from the rest."""

from __future__ import annotations

import os


class Clock:
    """Gives moments to compare with the ctime of files in rw layers.

    Since Linux 6.13 (multigrain-ts.rst) a file that was looked at and changes again within one tick
    gets the exact time, and no later change on any such file system gets one before it: what is
    older than the moment happened before, the rest after. Older kernels stamp by the tick, up to
    10 ms: what happened in the last tick before the moment counts as after it.
    """

    def __init__(self) -> None:
        self._fd = os.memfd_create("pytest-rootfs-clock")

    def now_ns(self) -> int:
        """Return the moment, in nanoseconds since 1970; 3 microseconds."""
        stamp_ns = 0
        for _ in range(2):  # the first change after a tick has the tick's time
            os.fchmod(self._fd, 0o600)
            stamp_ns = os.fstat(self._fd).st_ctime_ns
        return stamp_ns

    def close(self) -> None:
        """Close the file; idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
