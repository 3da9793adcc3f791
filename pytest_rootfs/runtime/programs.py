"""Find the program that a command names, inside of a container."""

from __future__ import annotations

import errno
import os
import stat

from pytest_rootfs.kernel.inside import open_inside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

SHELL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def find(name: str, cwd: str, env: dict[str, str]) -> str:
    """Return the path of a program as execvp(3) would find it.

    Raises FileNotFoundError; PermissionError when only something not executable has the name,
    IsADirectoryError when that is a folder.
    """
    if not name:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    if "/" in name:
        candidates = [os.path.join(cwd, name)]
    else:
        folders = env.get("PATH", SHELL_PATH).split(":")
        candidates = [os.path.join(cwd, folder, name) for folder in folders]
    # most are not there, and to learn that by an error takes four times as long
    program, refused = _first_program(path for path in candidates if os.access(path, os.F_OK))
    if not program and not refused:
        program, refused = _first_program(candidates)
    if program:
        return program
    if refused:
        code, path = refused[0]
        raise OSError(code, os.strerror(code), path)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)


def _first_program(candidates: Iterable[str]) -> tuple[str, list[tuple[int, str]]]:
    """Return the first path that can be executed, "" without one, and why others cannot be."""
    refused: list[tuple[int, str]] = []
    for path in candidates:
        try:
            mode = _program_mode(path)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.ELOOP):
                refused.append((errno.EACCES, path))
            continue
        if stat.S_ISREG(mode) and mode & 0o111:
            return path, refused
        refused.append((errno.EISDIR if stat.S_ISDIR(mode) else errno.EACCES, path))
    return "", refused


def _program_mode(path: str) -> int:
    """Return the mode of a program; ELOOP behind a magic link, which may lead to the host's."""
    fd = open_inside(path, os.O_PATH)
    try:
        return os.fstat(fd).st_mode
    finally:
        os.close(fd)
