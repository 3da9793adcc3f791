"""Say what it means that a container's init could not start a command."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_rootfs.errors import (
    CommandNotExecutable,
    CommandNotFound,
    ContainerError,
    RootfsError,
    shown,
)
from pytest_rootfs.runtime.client import StepFailed
from pytest_rootfs.runtime.gaps import Gap

if TYPE_CHECKING:
    from pytest_rootfs.runtime.launch import Call


class StandsStill(ContainerError):
    """No command can be started while the processes of the container stand still."""


def refused(error: StepFailed, call: Call, id_gap: Gap) -> RootfsError:
    """Return the error of a command that could not be started."""
    if error.step == "user":
        return _no_user(error, call, id_gap)
    explain = _STEPS.get(error.step)
    explained = None if explain is None else explain(error, call)
    if explained is None and error.errno == errno.EAGAIN:
        return ContainerError(
            f"cannot start {shown(call.argv)}: no more processes can be made in the container",
            hint="raise pids=… (or this user's own limit, `ulimit -u`), or end what runs there: "
            "`container.processes()` lists it",
        )
    return explained or ContainerError(f"cannot start {shown(call.argv)}: {error}")


def no_descriptors(call: Call) -> ContainerError:
    """Return the error of a command for whose pipes pytest may open no more files."""
    return ContainerError(
        f"cannot start {shown(call.argv)}: {os.strerror(errno.EMFILE)} in pytest",
        hint="raise `ulimit -n`, or close what the test has open",
    )


def too_long(argv: Sequence[str]) -> ContainerError:
    """Return the error of a command with more words or variables than execve(2) takes."""
    return ContainerError(
        f"cannot start {shown(argv)}: {os.strerror(errno.E2BIG)}",
        hint="give it as input=…, or in a file: a word holds 128 KiB, all of them 2 MiB",
    )


def _not_found(error: StepFailed, call: Call) -> RootfsError | None:
    program = call.argv[0]
    if error.errno == errno.ENOENT:
        hint = "check PATH and the image; `container.path(…).exists()` tells"
        if isinstance(call.command, str):
            hint = "the image has no shell: give the command as a list of words"
        return CommandNotFound(
            f"no program {program!r} in the container", program=program, hint=hint
        )
    if error.errno == errno.EISDIR:
        return CommandNotExecutable(f"{error.filename} is a folder, no program", program=program)
    hint = f"is it a program? container.path({str(error.filename)!r}).chmod(0o755)"
    return _not_executable(error, call, hint)


def _not_executed(error: StepFailed, call: Call) -> RootfsError | None:
    program = call.argv[0]
    if error.errno == errno.E2BIG:
        return too_long(call.argv)
    if error.errno == errno.ENOEXEC:
        return CommandNotExecutable(
            f"{program} is neither a binary of this machine nor a script with an interpreter line",
            program=program,
            hint="begin the script with #!/bin/sh",
        )
    if error.errno == errno.ELOOP:
        return CommandNotExecutable(
            f"{program} is interpreted by a script of a script of a script: the kernel follows 5",
            program=program,
        )
    if str(error.filename).startswith("/dev/shm/"):
        hint = "nothing in /dev/shm can be executed: put it in /tmp"
    else:
        hint = f"give user {call.user!r} the right to read and execute it, and to pass its folders"
    return _not_executable(error, call, hint)


def _not_executable(error: StepFailed, call: Call, hint: str) -> RootfsError | None:
    if error.errno not in (errno.EACCES, errno.EPERM):
        return None
    return CommandNotExecutable(
        f"{error.filename} cannot be executed by user {call.user!r}",
        program=call.argv[0],
        hint=hint,
    )


def _bad_interpreter(error: StepFailed, call: Call) -> RootfsError:
    program, name = call.argv[0], error.filename
    if error.errno == errno.ENOENT:
        return CommandNotFound(
            f"the interpreter {name} of {program} is not in the container",
            program=program,
            hint="Image.add_binary copies a program with its libraries",
        )
    return CommandNotExecutable(
        f"the interpreter {name} of {program} cannot be executed by user {call.user!r}: "
        f"{error.strerror}",
        program=program,
    )


def _not_entered(error: StepFailed, call: Call) -> RootfsError:
    hint = f"container.path({call.cwd!r}).mkdir(parents=True)"
    return ContainerError(
        f"cannot enter the working directory {call.cwd!r} as user {call.user!r}: {error.strerror}",
        hint=hint if error.errno == errno.ENOENT else "",
    )


def _no_user(error: StepFailed, call: Call, id_gap: Gap) -> RootfsError:
    if error.errno in (errno.EINVAL, errno.EPERM) and not error.filename:
        return ContainerError(
            f"cannot run as user {call.user!r}: the container has no such id",
            detail=id_gap.reason,
            hint=id_gap.repair or "a container's ids end at 65535",
        )
    file = f"{error.filename}: " if str(error.filename).startswith("/") else ""
    return ContainerError(
        f"cannot run as user {call.user!r}: {file}{error.strerror}",
        hint="give a name or a number of the image's /etc/passwd, or uid:gid",
    )


def _frozen(error: StepFailed, call: Call) -> RootfsError:
    return StandsStill(f"cannot start {shown(call.argv)}: {error.strerror}")


_STEPS = {
    "frozen": _frozen,
    "find": _not_found,
    "exec": _not_executed,
    "interpreter": _bad_interpreter,
    "cwd": _not_entered,
}
