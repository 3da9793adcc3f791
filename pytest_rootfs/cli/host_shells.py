"""Lend a program of this host to a container whose image has no shell.

The program and its libraries are shown read-only in a folder of their own, and its loader is told
to look there: nothing of the image is hidden, and the image's programs go on with their libraries.
"""

from __future__ import annotations

import os
import shlex
import shutil
from dataclasses import dataclass

from pytest_rootfs.cli.verbs import NotFound, UsageError
from pytest_rootfs.errors import RootfsError
from pytest_rootfs.image.elf import is_elf, read_linkage
from pytest_rootfs.image.libraries import Libraries, check_trusted

FOLDER = "/.pytest-rootfs"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostShell:
    """The command in the container, and what has to be mounted for it: (source, target, "ro")."""

    command: tuple[str, ...]
    mounts: tuple[tuple[str, str, str], ...]


def lend(words: str) -> HostShell:
    """Prepare a program of this host, with arguments as a shell splits them."""
    name, *arguments = _split(words)
    program = _find(name)
    libraries = _libraries(program)
    mounts = tuple((each, _inside(each), "ro") for each in (program, *libraries))
    # ld.so(8); without an interpreter the program is linked statically
    loader = (_inside(libraries[0]), "--library-path", FOLDER) if libraries else ()
    return HostShell(command=(*loader, _inside(program), *arguments), mounts=mounts)


def _split(words: str) -> list[str]:
    try:
        found = shlex.split(words)
    except ValueError as error:
        raise UsageError(f"--shell {words!r}: {error}") from error
    if not found:
        raise UsageError("--shell needs the name of a program")
    return found


def _find(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise NotFound(
            f"this host has no program {name!r}", hint="name one that it has, such as --shell bash"
        )
    # the name stays: a program such as busybox looks at it
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def _libraries(program: str) -> tuple[str, ...]:
    """Return the loader and the libraries of a program; nothing for a static one."""
    check_trusted(program)
    try:
        with open(program, "rb") as file:
            data = file.read()
    except OSError as error:
        raise RootfsError(
            f"cannot read {program}: {error.strerror}", hint="name a program that you may read"
        ) from error
    if not is_elf(data):
        raise RootfsError(
            f"{program} is a script, and its interpreter is not in the image",
            hint="name a program that is none, such as --shell bash",
        )
    return Libraries(lambda _: None).of(program, read_linkage(data))


def _inside(path: str) -> str:
    return f"{FOLDER}/{os.path.basename(path)}"
