"""The program that the kernel starts for another: the interpreter of a script, a binary's loader.

Looked at only after an exec has failed, to say what is missing; execve(2), elf(5).
"""

from __future__ import annotations

import os
import struct

from pytest_rootfs.kernel.inside import open_inside

HEAD_BYTES = 256  # BINPRM_BUF_SIZE, all that the kernel reads of an interpreter line
DEPTH = 5  # as many scripts as the kernel lets interpret one another, binfmt_script
PT_INTERP = 3
ELF_MAGIC = b"\x7fELF\x02"
_PROGRAM_HEADERS = struct.Struct("=32xQ14xHH")  # of an Elf64_Ehdr: e_phoff, e_phentsize, e_phnum
_PROGRAM_HEADER = struct.Struct("=I4xQ16xQ")  # of an Elf64_Phdr: p_type, p_offset, p_filesz


def first_bad(program: str) -> str:
    """Return the first interpreter of a program that cannot be started; "" when none is named."""
    for _ in range(DEPTH):
        program = _named_by(program)
        if not program or not _is_startable(program):
            return program
    return ""


def _named_by(program: str) -> str:
    try:
        fd = open_inside(program, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return ""
    try:
        head = os.pread(fd, HEAD_BYTES, 0)
        if head.startswith(b"#!"):
            words = head[2:].split(b"\n")[0].split()
            return os.fsdecode(words[0]) if words else ""
        return _loader(fd, head) if head.startswith(ELF_MAGIC) else ""
    except (OSError, struct.error):
        return ""
    finally:
        os.close(fd)


def _loader(fd: int, head: bytes) -> str:
    offset, size, count = _PROGRAM_HEADERS.unpack_from(head)
    for number in range(count):
        entry = os.pread(fd, _PROGRAM_HEADER.size, offset + number * size)
        kind, name_offset, name_bytes = _PROGRAM_HEADER.unpack_from(entry)
        if kind == PT_INTERP:
            return os.fsdecode(os.pread(fd, min(name_bytes, HEAD_BYTES), name_offset)).rstrip("\0")
    return ""


def _is_startable(program: str) -> bool:
    try:
        fd = open_inside(program, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        os.close(fd)
    except OSError:
        return False
    return os.access(program, os.X_OK) and not os.path.isdir(program)
