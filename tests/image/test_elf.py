"""How programs are linked, as read from their own bytes."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from features import needs
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_rootfs.image.elf import is_elf, read_linkage

SHELL = Path(os.path.realpath("/bin/sh"))
BEGINNING = SHELL.read_bytes()[:4096]


def header(*, machine_bits: int = 64, program_headers: bytes = b"", count: int = 0) -> bytes:
    """Return a little-endian ELF header followed by program headers."""
    if machine_bits == 64:
        ident = b"\x7fELF\2\1\1" + bytes(9)
        rest = struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, count, 0, 0, 0)
    else:
        ident = b"\x7fELF\1\1\1" + bytes(9)
        rest = struct.pack("<HHIIIIIHHHHHH", 3, 3, 1, 0, 52, 0, 0, 52, 32, count, 0, 0, 0)
    return ident + rest + program_headers


def test_shell_names_its_loader_and_libc() -> None:
    linkage = read_linkage(SHELL.read_bytes())

    assert Path(linkage.interpreter).name.startswith("ld")
    assert any(name.startswith("libc.") for name in linkage.needed)


@needs("readelf")
def test_needed_agrees_with_readelf() -> None:
    command = ["readelf", "-dW", sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    linkage = read_linkage(Path(sys.executable).read_bytes())

    lines = [line for line in done.stdout.splitlines() if "(NEEDED)" in line]
    assert list(linkage.needed) == [line.split("[")[1].rstrip("]") for line in lines]


def test_program_without_headers_is_static() -> None:
    linkage = read_linkage(header())

    assert (linkage.interpreter, linkage.needed) == ("", ())


@pytest.mark.parametrize("bits", [32, 64])
def test_interpreter_of_both_classes(bits: int) -> None:
    start = 64 + 56 if bits == 64 else 52 + 32
    name = b"/lib/ld-x.so.1\0"
    if bits == 64:
        entry = struct.pack("<IIQQQQQQ", 3, 4, start, start, start, len(name), len(name), 1)
    else:
        entry = struct.pack("<IIIIIIII", 3, start, start, start, len(name), len(name), 4, 1)

    linkage = read_linkage(header(machine_bits=bits, program_headers=entry, count=1) + name)

    assert linkage.interpreter == "/lib/ld-x.so.1"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"#!/bin/sh\n",
        b"\x7fELF",
        b"\x7fELF\7\1" + bytes(60),
        header(count=3),
        header(count=60000),
    ],
)
def test_malformed_file_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="it"):
        read_linkage(data)


@settings(deadline=None)  # machines stall
@given(st.data())
def test_damaged_program_never_crashes(data: st.DataObject) -> None:
    program = bytearray(BEGINNING)
    for _ in range(data.draw(st.integers(1, 8))):
        program[data.draw(st.integers(4, 1023))] = data.draw(st.integers(0, 255))

    with contextlib.suppress(ValueError):
        read_linkage(bytes(program))


def test_magic_decides() -> None:
    assert is_elf(b"\x7fELF...")
    assert not is_elf(b"#!/bin/sh")
