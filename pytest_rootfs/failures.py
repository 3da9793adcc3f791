"""Keep what a failed test left in its containers.

A failure is an OCI image in the store (the base layers and the rw layer) and
`failures/<id>/failure.json`. Evidence that cannot be had is written down as such: nothing here
changes the outcome of a test. What is looked at is in `failure_evidence`, finding and removing in
`failure_shelf`, the data in `failure_record`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from pytest_rootfs.failure_evidence import Viewpoint, look, look_and_keep
from pytest_rootfs.failure_record import Failure, KeptContainer, KeptImage
from pytest_rootfs.failure_shelf import FailureAmbiguous, FailureNotFound, Failures, belongs
from pytest_rootfs.settings import shown_size

if TYPE_CHECKING:
    from pytest_rootfs.store.store import Store

__all__ = [
    "Failure",
    "FailureAmbiguous",
    "FailureNotFound",
    "Failures",
    "KeptContainer",
    "KeptImage",
    "Viewpoint",
    "belongs",
    "look",
    "look_and_keep",
    "now",
    "publish",
    "summary_line",
]

_ID_ATTEMPTS = 20


def now() -> str:
    """Return the time of a failure."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def publish(store: Store, failure: Failure) -> Failure:
    """Write a failure under a new id; raises `OSError` when it cannot be. Safe under xdist."""
    failures = Failures(store)
    for _ in range(_ID_ATTEMPTS):
        try:
            return failures.publish(dataclasses.replace(failure, id=_new_id(failure.nodeid)))
        except FileExistsError:  # 24 bits: of a thousand failures two share an id in 3 of 100 cases
            continue
    raise FileExistsError(f"no free id for a failure in {store.failures_dir}")


def summary_line(failure: Failure) -> str:
    """Return the failure's line in the terminal summary."""
    count, several = failure.change_count, len(failure.containers) > 1
    where = f" in {len(failure.containers)} containers" if several else ""
    what = f"{count} change{'' if count == 1 else 's'}{where}, {shown_size(failure.size)}"
    verb = "shell"
    if not failure.manifest:
        what, verb = "files not kept", "show"
    if failure.outcome != "failed":
        what = f"{failure.outcome}, {what}"
    return f"{failure.id}  {failure.nodeid}  {what}   pytest-rootfs {verb} {failure.id}"


def _new_id(nodeid: str) -> str:
    seed = f"{nodeid} {time.time_ns()} {os.getpid()}".encode(errors="surrogateescape")
    return hashlib.sha256(seed + os.urandom(8)).hexdigest()[:6]
