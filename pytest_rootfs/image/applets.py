"""Gather busybox: one static program of this host, and a link for each of its applets."""

from __future__ import annotations

import os
import subprocess

from pytest_rootfs.errors import RecipeError
from pytest_rootfs.image.elf import is_elf, read_linkage
from pytest_rootfs.image.libraries import LIST_TIMEOUT_S, check_trusted
from pytest_rootfs.image.programs import find_program
from pytest_rootfs.image.steps import AppletsStep
from pytest_rootfs.image.trees import Tree, TreeEntry, Witness, file_entry

INSTALL = "sudo apt-get install busybox-static"


def gather_applets(step: AppletsStep) -> Tree:
    """Return the program as `/bin/NAME`, and its applets where it wants them."""
    witness = Witness()
    path = find_program(step.program)
    if not path:
        raise RecipeError(f"this host has no program {step.program}", hint=f"type: {INSTALL}")
    real = os.path.realpath(path)
    witness.look(path)
    witness.look(real)
    _check_static(real)
    name = os.fsencode(os.path.basename(step.program))
    program = file_entry(b"bin/" + name, real, mode=0o755, owner=(0, 0))
    entries = {program.path: program}
    for applet in _applets(real):
        link = TreeEntry(path=applet, kind="symlink", mode=0o777, linkname=b"/bin/" + name)
        entries.setdefault(applet, link)
    return Tree(
        entries=tuple(entries[path] for path in sorted(entries)),
        seen=witness.seen,
        is_settled=witness.is_settled,
    )


def _check_static(path: str) -> None:
    with open(path, "rb") as file:
        data = file.read()
    try:
        is_static = is_elf(data) and not read_linkage(data).interpreter
    except ValueError as error:
        raise RecipeError(f"cannot read {path}: {error}") from error
    if not is_static:
        raise RecipeError(f"{path} is not a static program", hint=f"type: {INSTALL}")


def _applets(path: str) -> list[bytes]:
    check_trusted(path)
    try:
        done = subprocess.run(
            [path, "--list-full"],
            executable=path,
            env={},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LIST_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise RecipeError(f"cannot run {path} --list-full: {error}") from error
    return [line for line in done.stdout.split(b"\n") if line and b".." not in line.split(b"/")]
