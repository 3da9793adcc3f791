"""Say why a container could not be started."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from typing import Any

from pytest_rootfs.errors import ContainerError, RootfsError, signal_name
from pytest_rootfs.runtime import host_reasons
from pytest_rootfs.runtime.client import StepFailed


class InitEnded(Exception):
    """Process 1 was ended before it was ready; `status` as waitpid(2) gives it."""

    def __init__(self, status: int) -> None:
        super().__init__()
        self.status = status


def refused(error: StepFailed, plan: Mapping[str, Any]) -> RootfsError:  # Any: JSON
    """Return the error for a step of a plan that failed."""
    if unsupported := host_reasons.unsupported(error):
        return unsupported
    if error.errno == errno.EMFILE:
        return unheard()
    source = _sources(plan).get(error.filename)
    if source is None:
        return ContainerError(
            f"the container cannot be started: {error}",
            hint="`pytest-rootfs doctor` says what this host lacks",
        )
    return ContainerError(
        f"cannot mount {source} on {error.filename}: {error.strerror}",
        hint="give another target in mounts=… or tmpfs=…, or make the mount point first",
    )


def died(status: int) -> ContainerError:
    """Return the error for an init that ended before it was ready, without a word."""
    code = os.waitstatus_to_exitcode(status)
    ending = f"by {signal_name(-code)}" if code < 0 else f"with exit status {code}"
    return ContainerError(f"the container cannot be started: its init was ended {ending}")


def unheard() -> ContainerError:
    """Return the error for a start for which the spawner, which lives, had no descriptors."""
    return ContainerError(
        "the container cannot be started: too many files are open to hand over what it needs",
        detail="each container that lives keeps nine of them (RLIMIT_NOFILE)",
        hint="close containers that are not needed, or raise `ulimit -n`",
    )


def lost() -> ContainerError:
    """Return the error for a start that new processes could not make either."""
    return ContainerError(
        "the container cannot be started: the process that makes containers was killed, twice",
        hint="`dmesg` tells whether this host has run out of memory",
    )


def _sources(plan: Mapping[str, Any]) -> dict[str, str]:  # Any: JSON
    """Return what people want mounted, by target."""
    found = {}
    for name, *arguments in plan["init"]:
        if name == "tmpfs":
            found[arguments[0]] = "a tmpfs"
        elif name == "bind":
            found[arguments[1]] = arguments[2]
    return found
