"""Find the shared libraries of host programs by asking their own interpreter.

`INTERPRETER --list PROGRAM` maps the libraries and prints where they were found; it runs no code
of the program. Never `ldd`, which on some systems executes the file. Refused: an interpreter that
does not look like a dynamic loader, and files that somebody else than root or the user owns.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Callable

from pytest_rootfs.errors import RecipeError
from pytest_rootfs.image.elf import Linkage

LOADER_NAME = re.compile(r"ld[-.\w]*\.so(\.\d+)*")
LIST_TIMEOUT_S = 20
# The loader also obeys these two; they decide the outcome like the program itself does.
LOADER_FILES = ("/etc/ld.so.cache", "/etc/ld.so.preload")
_FOUND = re.compile(r"\s*(?P<name>.+?) => (?P<path>/.+?) \(0x[0-9a-f]+\)")
_BARE = re.compile(r"\s*(?P<path>/.+?) \(0x[0-9a-f]+\)")
_MISSING = re.compile(r"\s*(?P<name>.+?) => not found")
_HWCAPS = re.compile(r"/glibc-hwcaps/[^/]+(?=/[^/]+$)")


class Libraries:
    """Answer which libraries a program needs; programs linked alike are asked about once.

    `look` is told every file that decided an answer.
    """

    def __init__(self, look: Callable[[str], object]) -> None:
        self._look = look
        self._answers: dict[tuple[str, tuple[str, ...]], tuple[str, ...]] = {}

    def of(self, program: str, linkage: Linkage) -> tuple[str, ...]:
        """Return the paths, as the loader asks for them, of the interpreter and all libraries."""
        if not linkage.interpreter:
            return ()
        check_trusted(program)
        key = (linkage.interpreter, linkage.needed)
        # A search path of its own may hold $ORIGIN, which makes the answer this program's alone.
        if linkage.search:
            return self._ask(program, linkage.interpreter)
        if key not in self._answers:
            self._answers[key] = self._ask(program, linkage.interpreter)
        return self._answers[key]

    def _ask(self, program: str, interpreter: str) -> tuple[str, ...]:
        for path in LOADER_FILES:
            self._look(path)
        output = _list(program, interpreter)
        paths = [interpreter]
        for line in output.splitlines():
            if missing := _MISSING.fullmatch(line):
                raise RecipeError(
                    f"{program} needs {missing['name']}, which this host does not have",
                    hint=f"repair the program on this host: {interpreter} --list {program}",
                )
            if found := _FOUND.fullmatch(line) or _BARE.fullmatch(line):
                paths.append(_portable(found["path"]))
        return tuple(dict.fromkeys(paths))


def check_trusted(path: str) -> None:
    """Refuse a file that another user owns or could have written.

    Whoever owns `/` is the system: root, but inside a user namespace, where the host's root is not
    mapped, an id that is nobody's.
    """
    status = os.stat(path)
    trusted = (0, os.geteuid(), os.stat("/").st_uid)
    if status.st_uid not in trusted or status.st_mode & stat.S_IWOTH:
        raise RecipeError(
            f"will not load {path}: it belongs to user {status.st_uid}, or everybody may write it",
            hint=f"check the file, then: chown root {path} && chmod o-w {path}",
        )


def _list(program: str, interpreter: str) -> str:
    if not LOADER_NAME.fullmatch(os.path.basename(interpreter)):
        raise RecipeError(
            f"{program} names {interpreter} as its loader, which does not look like one"
        )
    try:
        check_trusted(interpreter)
        done = subprocess.run(
            [interpreter, "--list", program],
            env={"LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LIST_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RecipeError(f"cannot run {interpreter} --list {program}: {error}") from error
    if done.returncode:
        raise RecipeError(
            f"{interpreter} --list {program} failed with exit status {done.returncode}",
            detail=done.stderr.decode(errors="replace").strip()[-2000:],
            hint="a program of another architecture cannot be added",
        )
    return done.stdout.decode(errors="surrogateescape")


def _portable(path: str) -> str:
    """Prefer the baseline build of a library to the one for this processor."""
    baseline = _HWCAPS.sub("", path)
    return baseline if os.path.exists(baseline) else path
