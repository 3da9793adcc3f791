"""Run a function as root of a user namespace with its own mounts, as jobs of the store run."""

from __future__ import annotations

import os
import pickle
import sys
import traceback
from collections.abc import Callable
from typing import TypeVar, cast

from pytest_rootfs.kernel import namespaces, syscalls

T = TypeVar("T")

IDS = 65536


def in_user_namespace(function: Callable[[], T]) -> T:
    """Fork, call `function` there and return its result, or raise what it raised.

    Root gets 65536 ids, mapped to themselves; an ordinary user gets the single id 0.
    """
    ready_read, ready_write = os.pipe()
    go_read, go_write = os.pipe()
    result_read, result_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            for fd in (ready_read, go_write, result_read):
                os.close(fd)
            syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
            os.write(ready_write, b"1")
            os.read(go_read, 1)
            _answer(function, result_write)
            status = 0
        finally:
            if status:
                traceback.print_exc(file=sys.__stderr__)
            os._exit(status)
    for fd in (ready_write, go_read, result_write):
        os.close(fd)
    try:
        if os.read(ready_read, 1):
            _write_maps(pid)
            os.write(go_write, b"1")
    finally:
        os.close(ready_read)
        os.close(go_write)
    return cast("T", _result_of(pid, result_read))


def in_mount_namespace(function: Callable[[], T]) -> T:
    """Fork as root, call `function` with mounts of its own; return or raise as it does."""
    result_read, result_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(result_read)
            syscalls.unshare(syscalls.CLONE_NEWNS)
            _answer(function, result_write)
            status = 0
        finally:
            if status:
                traceback.print_exc(file=sys.__stderr__)
            os._exit(status)
    os.close(result_write)
    return cast("T", _result_of(pid, result_read))


def _result_of(pid: int, result_read: int) -> object:
    """Return what a child answers, or raise it; the child has ended then."""
    with os.fdopen(result_read, "rb") as result:
        content = result.read()
    os.waitpid(pid, 0)
    succeeded, value = pickle.loads(content)
    if not succeeded:
        raise value
    return value


def _write_maps(pid: int) -> None:
    if os.getuid() == 0:
        lines = [(0, 0, IDS)]
        namespaces.write_map(f"/proc/{pid}/uid_map", lines)
        namespaces.write_map(f"/proc/{pid}/gid_map", lines)
        return
    namespaces.write_map(f"/proc/{pid}/uid_map", [(0, os.getuid(), 1)])
    namespaces.deny_setgroups(pid)
    namespaces.write_map(f"/proc/{pid}/gid_map", [(0, os.getgid(), 1)])


def _answer(function: Callable[[], object], result_write: int) -> None:
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    os.umask(0o022)
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE, None)
    try:
        answer: tuple[bool, object] = (True, function())
    except Exception as error:  # noqa: BLE001  the caller raises it
        answer = (False, error)
    with os.fdopen(result_write, "wb") as out:
        pickle.dump(answer, out)
