"""Execute a command under a seccomp filter that refuses some system calls; seccomp(2).

`python filtered.py '{"clone3": 38}' COMMAND…`: by name, the errno that a call gets. `clone` is
refused only when it would make a namespace, as docker's profile does. Needs root, for a filter
without no_new_privs.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import struct
import sys

X86 = {"pivot_root": 155, "mount": 165, "umount2": 166, "unshare": 272, "setns": 308, "clone": 56}
ARM = {"pivot_root": 41, "mount": 40, "umount2": 39, "unshare": 97, "setns": 268, "clone": 220}
NUMBERS = {
    **(X86 if platform.machine() == "x86_64" else ARM),
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "clone3": 435,
    "openat2": 437,
    "mount_setattr": 442,
}
NAMESPACES = 0x7E020000
DOCKER = {**dict.fromkeys(NUMBERS, errno.EPERM), "clone3": errno.ENOSYS}
del DOCKER["openat2"]
"""What docker's default profile refuses of them to who lacks CAP_SYS_ADMIN."""

LOAD, JUMP_EQUAL, JUMP_SET, RETURN = 0x20, 0x15, 0x45, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def install(refused: dict[str, int]) -> None:
    """Put the filter on this process."""
    program = b""
    for name, number in refused.items():
        program += _line(LOAD, 0, 0, 0)  # seccomp_data.nr
        if name == "clone":
            program += _line(JUMP_EQUAL, 0, 3, NUMBERS[name])
            program += _line(LOAD, 0, 0, 16)  # seccomp_data.args[0], its low half
            program += _line(JUMP_SET, 0, 1, NAMESPACES)
        else:
            program += _line(JUMP_EQUAL, 0, 1, NUMBERS[name])
        program += _line(RETURN, 0, 0, REFUSE | number)
    program += _line(RETURN, 0, 0, ALLOW)
    buffer = ctypes.create_string_buffer(program, len(program))
    code = _Program(len(program) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(code), 0, 0):
        raise OSError(ctypes.get_errno(), "prctl PR_SET_SECCOMP")


def _line(code: int, if_true: int, if_false: int, value: int) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


if __name__ == "__main__":
    install(json.loads(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
