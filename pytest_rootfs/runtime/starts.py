"""Say why a container could not be started."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pytest_rootfs.errors import ContainerError, HostUnsupported, RootfsError, signal_name
from pytest_rootfs.runtime import host_reasons
from pytest_rootfs.runtime.client import StepFailed

SHORTAGES = {
    errno.EMFILE: "raise `ulimit -n`",
    errno.ENFILE: "raise the sysctl fs.file-max, or close what other programs have open",
    errno.EAGAIN: "raise `ulimit -u`, or end other processes of this user",
    errno.ENOMEM: "`free` tells what takes the memory of this host",
}
"""What may be different in a moment, and the way out: no property of the host."""


class InitEnded(Exception):
    """Process 1 was ended before it was ready; `status` as waitpid(2) gives it."""

    def __init__(self, status: int) -> None:
        super().__init__()
        self.status = status


def refused(error: StepFailed, plan: Mapping[str, Any]) -> RootfsError:  # Any: JSON
    """Return the error for a step of a plan that failed."""
    if error.errno == errno.EMFILE:
        return unheard()
    if error.errno in SHORTAGES:
        return _short(error)
    if unsupported := host_reasons.unsupported(error):
        return unsupported
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


@contextmanager
def shortages_told() -> Iterator[None]:
    """Tell of what this very process is short of by a ContainerError with the way out."""
    try:
        yield
    except StepFailed:
        raise
    except OSError as error:
        if error.errno not in SHORTAGES:
            raise
        raise _short(error) from error


def no_session(error: StepFailed) -> RootfsError:
    """Return the error for processes of a session that could not begin."""
    what = f"containers cannot be started here: {error}"
    if error.errno in SHORTAGES:
        return ContainerError(what, hint=SHORTAGES[error.errno])
    if error.errno == errno.ECHILD:
        return killed("spawner")
    return host_reasons.unsupported(error) or HostUnsupported(what)


def killed(name: str) -> ContainerError:
    """Return the error for a warden or a spawner that ended at its start without a word."""
    return ContainerError(
        f"containers cannot be started: the {name} ended at its start, as when somebody kills it",
        hint="run pytest again; if that does not help, PYTEST_ROOTFS_DEBUG=1 shows why",
    )


def lost() -> ContainerError:
    """Return the error for a start that new processes could not make either."""
    return ContainerError(
        "the container cannot be started: the process that makes containers was killed, twice",
        hint="`dmesg` tells whether this host has run out of memory",
    )


def _short(error: OSError) -> ContainerError:
    subject = "" if isinstance(error, StepFailed) or not error.filename else f"{error.filename}: "
    reason = str(error) if isinstance(error, StepFailed) else f"{subject}{error.strerror}"
    return ContainerError(
        f"the container cannot be started: {reason}", hint=SHORTAGES[error.errno or 0]
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
