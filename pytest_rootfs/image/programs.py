"""Gather programs of this host: the files, the links that lead to them, interpreters, libraries."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pytest_rootfs.errors import RecipeError
from pytest_rootfs.image.elf import is_elf, read_linkage
from pytest_rootfs.image.libraries import Libraries
from pytest_rootfs.image.steps import Part
from pytest_rootfs.image.trees import Fingerprint, Tree, TreeEntry, Witness, file_entry

# Fixed, not $PATH: root, the user and every worker find the same programs.
SEARCH_FOLDERS = ("/usr/bin", "/bin", "/usr/sbin", "/sbin")
MAX_LINKS = 40  # as the kernel follows (path_resolution(7))
MAX_INTERPRETERS = 4  # nested scripts, as the kernel allows (binfmt_script)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatheredPrograms:
    """Hold what was found for some programs, by path in the image."""

    programs: dict[bytes, TreeEntry]
    libraries: dict[bytes, TreeEntry]
    seen: tuple[tuple[str, Fingerprint], ...]
    skipped: tuple[str, ...]
    is_settled: bool

    def tree(self, part: Part) -> Tree:
        """Return the content of one layer."""
        parts = {"libraries": self.libraries, "programs": self.programs}
        entries = parts.get(part, self.libraries | self.programs)
        return Tree(
            entries=tuple(entries[path] for path in sorted(entries)),
            seen=self.seen,
            skipped=self.skipped,
            is_settled=self.is_settled,
        )


def gather_programs(required: Sequence[str], optional: Sequence[str] = ()) -> GatheredPrograms:
    """Find programs and libraries; raises `RecipeError` for the first required one that fails."""
    gathering = _Gathering()
    for name in required:
        gathering.add(name)
    for name in optional:
        gathering.add_if_possible(name)
    return GatheredPrograms(
        programs=gathering.programs,
        libraries=gathering.libraries,
        seen=gathering.witness.seen,
        skipped=tuple(gathering.skipped),
        is_settled=gathering.witness.is_settled,
    )


def find_program(name: str) -> str:
    """Return where a program of this host is; "" when it is nowhere."""
    if "/" in name:
        return name if os.path.isfile(name) else ""
    paths = (f"{folder}/{name}" for folder in SEARCH_FOLDERS)
    return next((path for path in paths if os.path.isfile(path) and os.access(path, os.X_OK)), "")


class _Gathering:
    def __init__(self) -> None:
        self.witness = Witness()
        self.programs: dict[bytes, TreeEntry] = {}
        self.libraries: dict[bytes, TreeEntry] = {}
        self.skipped: list[str] = []
        self._libraries = Libraries(self.witness.look)
        self._hashed: dict[str, TreeEntry] = {}
        self._first_names: dict[tuple[int, int], str] = {}

    def add_if_possible(self, name: str) -> None:
        try:
            self.add(name)
        except RecipeError as error:
            self.skipped.append(error.what)

    def add(self, name: str) -> None:
        """Add all of a program, or nothing of it."""
        path = self._find(name)
        programs: dict[bytes, TreeEntry] = {}
        libraries: dict[bytes, TreeEntry] = {}
        try:
            self._add_program(path, programs, libraries, depth=0)
        except OSError as error:
            raise RecipeError(
                f"cannot read {error.filename or path}: {error.strerror}",
                hint="run as a user who may read it, or leave it out",
            ) from error
        self.programs |= programs
        self.libraries |= libraries

    def _find(self, name: str) -> str:
        path = find_program(name)
        candidates = [name] if "/" in name else [f"{folder}/{name}" for folder in SEARCH_FOLDERS]
        for candidate in candidates:
            self.witness.look(candidate)
            if candidate == path:
                break
        if not path:
            where = "" if "/" in name else f" in {' '.join(SEARCH_FOLDERS)}"
            raise RecipeError(
                f"this host has no program {name}{where}",
                hint="install the package that brings it, or leave it out",
            )
        return path

    def _add_program(
        self,
        path: str,
        programs: dict[bytes, TreeEntry],
        libraries: dict[bytes, TreeEntry],
        *,
        depth: int,
    ) -> None:
        if depth > MAX_INTERPRETERS:
            raise RecipeError(f"{path}: too many levels of interpreters")
        for hop, target in self._links(path):
            programs[_inside(hop)] = TreeEntry(
                path=_inside(hop), kind="symlink", mode=0o777, linkname=os.fsencode(target)
            )
            path = _joined(hop, target)
        programs[_inside(path)] = self._first_name(path, programs) or self._file(path)
        with open(path, "rb") as file:
            data = file.read()
        if data.startswith(b"#!"):
            for interpreter in _interpreters(path, data):
                self._add_program(interpreter, programs, libraries, depth=depth + 1)
        elif is_elf(data):
            self._add_libraries(path, data, libraries)

    def _add_libraries(self, path: str, data: bytes, libraries: dict[bytes, TreeEntry]) -> None:
        try:
            linkage = read_linkage(data)
        except ValueError as error:
            raise RecipeError(f"cannot read {path}: {error}") from error
        for library in self._libraries.of(path, linkage):
            libraries[_inside(library)] = self._file(library)

    def _links(self, path: str) -> Iterator[tuple[str, str]]:
        for _ in range(MAX_LINKS):
            if not stat.S_ISLNK(os.lstat(path).st_mode):
                return
            self.witness.look(path)
            target = os.readlink(path)
            yield path, target
            path = _joined(path, target)
        raise RecipeError(f"{path}: too many levels of symbolic links")

    def _first_name(self, path: str, programs: dict[bytes, TreeEntry]) -> TreeEntry | None:
        """Return a link to another name of the same file, if that is in the image.

        A multi-call program with a hundred hard links is copied once.
        """
        status = os.stat(path)
        first = self._first_names.setdefault((status.st_dev, status.st_ino), path)
        known = _inside(first) in programs or _inside(first) in self.programs
        if status.st_nlink == 1 or not known:
            return None
        if os.path.realpath(first) == os.path.realpath(path):  # /bin/x and /usr/bin/x are one name
            return None
        return TreeEntry(
            path=_inside(path), kind="symlink", mode=0o777, linkname=b"/" + _inside(first)
        )

    def _file(self, path: str) -> TreeEntry:
        """Return the entry of a file under the path asked for, whatever links lead to it."""
        if path not in self._hashed:
            real = os.path.realpath(path)
            self.witness.look(path)
            self.witness.look(real)
            mode = 0o755 if os.stat(real).st_mode & 0o100 else 0o644
            self._hashed[path] = file_entry(_inside(path), real, mode=mode, owner=(0, 0))
        return self._hashed[path]


def _inside(path: str) -> bytes:
    """Return the path in the image, relative to its root."""
    if ".." in path.split("/"):
        # `a/../b` is `b` for the loader only if `a` exists; the image has the folder that counts.
        path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    return os.fsencode(os.path.normpath(path).lstrip("/"))


def _joined(link: str, target: str) -> str:
    path = os.path.join(os.path.dirname(link), target)
    lexical = os.path.normpath(path)
    return lexical if os.path.lexists(lexical) else path


def _interpreters(path: str, data: bytes) -> list[str]:
    """Return the interpreter of a script, and for `env NAME` the program that it finds."""
    words = data[2:258].split(b"\n")[0].decode(errors="surrogateescape").split()
    if not words or not words[0].startswith("/"):
        raise RecipeError(f"the first line of {path} names no interpreter")
    if os.path.basename(words[0]) != "env":
        return [words[0]]
    names = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
    found = find_program(names[0]) if names else ""
    if not found:
        raise RecipeError(f"the interpreter of {path} is not on this host: {' '.join(words)}")
    return [words[0], found]
