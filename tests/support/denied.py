"""Deny system calls by a seccomp filter, as an old kernel, a container engine or a sandbox does.

`python denied.py DENIALS PROGRAM ARG…` installs the filter and executes the program, with all that
it starts. DENIALS is JSON: for each call its name, the error that it gets, and, for some, which
argument must have which value (only numbers can be looked at, not what pointers lead to).
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import struct
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

NUMBERS = {  # from 424 on the same on every architecture
    "x86_64": {
        "clone": 56,
        "fsetxattr": 190,
        "mount": 165,
        "pidfd_send_signal": 424,
        "pivot_root": 155,
        "setgroups": 116,
        "setns": 308,
        "setresgid": 119,
        "umount2": 166,
        "unshare": 272,
        "waitid": 247,
    },
    "aarch64": {
        "clone": 220,
        "fsetxattr": 7,
        "mount": 40,
        "pidfd_send_signal": 424,
        "pivot_root": 41,
        "setgroups": 159,
        "setns": 268,
        "setresgid": 149,
        "umount2": 39,
        "unshare": 97,
        "waitid": 95,
    },
}
COMMON = {
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "pidfd_open": 434,
    "clone3": 435,
    "close_range": 436,
    "openat2": 437,
    "mount_setattr": 442,
}
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# linux/bpf_common.h, linux/seccomp.h, linux/prctl.h
LOAD, JUMP_IF_EQUAL, JUMP_IF_ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
RET_ALLOW, RET_ERRNO = 0x7FFF0000, 0x00050000
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, MODE_FILTER = 38, 22, 2
OFFSET_NUMBER, OFFSET_ARCH, OFFSET_ARGUMENTS = 0, 4, 16
NAMESPACES = 0x7E020000
"""The flags of clone(2) that make one."""


@dataclass(frozen=True, kw_only=True)
class Denial:
    """A call that gets an error; with `argument`, only when that one is `value`."""

    call: str
    error: int = errno.ENOSYS
    argument: int | None = None
    value: int = 0
    is_mask: bool = False
    """Whether any bit of `value` is enough."""


def deny(*calls: str, error: int = errno.ENOSYS) -> list[Denial]:
    """Return denials of whole calls."""
    return [Denial(call=call, error=error) for call in calls]


DOCKER = [
    *deny("mount", "pivot_root", "setns", "umount2", "unshare", error=errno.EPERM),
    *deny("fsconfig", "fsmount", "fsopen", "mount_setattr", "move_mount", error=errno.EPERM),
    *deny("open_tree", error=errno.EPERM),
    *deny("clone3"),
    Denial(call="clone", argument=0, value=NAMESPACES, is_mask=True, error=errno.EPERM),
]
"""What docker's default profile refuses to who lacks CAP_SYS_ADMIN."""


def argv_with(denials: Sequence[Denial], *argv: str, folder: str = "") -> list[str]:
    """Return the command that runs another one with calls denied, by the copy in a folder."""
    interpreter = os.path.realpath(sys.executable) if folder else sys.executable
    own = Path(__file__)
    return [interpreter, str(Path(folder or own.parent, own.name)), _written(denials), *argv]


def wrapper(denials: Sequence[Denial]) -> list[str]:
    """Return a command to put before another one, which works where this file is out of sight."""
    interpreter = os.path.realpath(sys.executable)
    return [interpreter, "-c", Path(__file__).read_text(), _written(denials)]


def _written(denials: Sequence[Denial]) -> str:
    return json.dumps([asdict(denial) for denial in denials])


def install(denials: Sequence[Denial]) -> None:
    """Deny the calls to this process and to all that it starts, for ever."""
    program = b"".join(struct.pack("HBBI", *line) for line in _program(denials, os.uname().machine))
    lines = ctypes.create_string_buffer(program)
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(lines))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 4]
    # root may filter without; with it, setuid programs as newuidmap would lose their rights
    if os.geteuid() != 0 or not _has_rights():
        _checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _checked(libc.prctl(PR_SET_SECCOMP, MODE_FILTER, header, 0, 0))


def _has_rights() -> bool:
    effective = Path("/proc/self/status").read_text().partition("CapEff:")[2].split()[0]
    return bool(int(effective, 16) >> 21 & 1)  # CAP_SYS_ADMIN


def _checked(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "prctl")


def _program(denials: Sequence[Denial], machine: str) -> list[tuple[int, int, int, int]]:
    """Return the lines (code, jump if true, jump if false, operand) of a classic BPF program."""
    numbers = {**NUMBERS[machine], **COMMON}
    lines = [
        (LOAD, 0, 0, OFFSET_ARCH),
        (JUMP_IF_EQUAL, 1, 0, AUDIT_ARCH[machine]),
        (RETURN, 0, 0, RET_ALLOW),  # a program of another architecture
    ]
    for denial in denials:
        refusal = (RETURN, 0, 0, RET_ERRNO | denial.error)
        lines.append((LOAD, 0, 0, OFFSET_NUMBER))
        if denial.argument is None:
            lines += [(JUMP_IF_EQUAL, 0, 1, numbers[denial.call]), refusal]
            continue
        compare = JUMP_IF_ANY_BIT if denial.is_mask else JUMP_IF_EQUAL
        lines += [
            (JUMP_IF_EQUAL, 0, 3, numbers[denial.call]),
            (LOAD, 0, 0, OFFSET_ARGUMENTS + 8 * denial.argument),  # the lower half
            (compare, 0, 1, denial.value),
            refusal,
        ]
    return [*lines, (RETURN, 0, 0, RET_ALLOW)]


if __name__ == "__main__":
    install([Denial(**denial) for denial in json.loads(sys.argv[1])])
    os.execvp(sys.argv[2], sys.argv[2:])
