"""Say why a container is dead, and what was heard of it last."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

from pytest_rootfs.errors import ContainerDied, signal_name
from pytest_rootfs.runtime.limit_watch import LimitWatch, Status
from pytest_rootfs.runtime.records import CommandRecord


def explain(
    name: str, status: Status, watch: LimitWatch, records: Sequence[CommandRecord]
) -> ContainerDied:
    """Return the error for a container whose init does not answer."""
    tail = next((record.output_tail for record in reversed(records) if record.output_tail), "")
    detail = f"last output:\n{tail}" if tail else ""
    if status["status"] is None:
        return ContainerDied(f"container {name} does not answer", detail=detail)
    code = os.waitstatus_to_exitcode(status["status"])
    reason = f"by {signal_name(-code)}" if code < 0 else f"with exit status {code}"
    if code == -signal.SIGKILL and (hits := watch.look(status)).oom_killed:
        reason += f": {hits.reason}"
    return ContainerDied(f"the init of container {name} was ended {reason}", detail=detail)
