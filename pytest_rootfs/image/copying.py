"""Gather a file or folder of the host, as `COPY` of a Containerfile would.

Nothing is followed below the source: a link is copied as a link, and folders are opened through
descriptors that refuse links, so that a swapped folder cannot lead elsewhere. Sockets, pipes and
devices are refused.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator

from pytest_rootfs.errors import RecipeError
from pytest_rootfs.image.globs import compile_globs
from pytest_rootfs.image.steps import CopyStep
from pytest_rootfs.image.trees import Tree, TreeEntry, Witness, file_entry

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SPECIAL = {stat.S_IFSOCK: "a socket", stat.S_IFIFO: "a pipe"}


def gather_copy(step: CopyStep) -> Tree:
    """Return the content of a copy; paths are relative to its target, "" being the target."""
    witness = Witness()
    source = os.path.realpath(step.source)
    witness.look(step.source)
    try:
        entries = sorted(_Walk(step, witness).entries(source), key=lambda entry: entry.path)
    except FileNotFoundError as error:
        raise RecipeError(
            f"source {step.source} does not exist"
            if error.filename in (None, source)
            else f"{error.filename} vanished while it was being copied",
            hint="a relative source starts at the recipe's folder, or at the current directory",
        ) from error
    except OSError as error:
        raise RecipeError(
            f"cannot read {error.filename or source}: {error.strerror}",
            hint="leave it out with ignore=, or make it readable",
        ) from error
    return Tree(
        entries=tuple(entries),
        basename=os.fsencode(os.path.basename(step.source)),
        seen=witness.seen,
        is_settled=witness.is_settled,
    )


class _Walk:
    def __init__(self, step: CopyStep, witness: Witness) -> None:
        self._step = step
        self._witness = witness
        self._ignored: re.Pattern[str] | None = compile_globs(step.ignore)

    def entries(self, source: str) -> Iterator[TreeEntry]:
        status = os.lstat(source)
        self._witness.look(source)
        if not stat.S_ISDIR(status.st_mode):
            yield self._other(source, "", status)
            return
        folder_fd = os.open(source, _FOLDER_FLAGS)
        try:
            yield self._folder("", status)
            yield from self._below(folder_fd, source, "")
        finally:
            os.close(folder_fd)

    def _below(self, folder_fd: int, folder: str, rel_folder: str) -> Iterator[TreeEntry]:
        for name in sorted(os.listdir(folder_fd), key=os.fsencode):
            rel_path = f"{rel_folder}/{name}" if rel_folder else name
            if self._ignored and self._ignored.fullmatch(rel_path):
                continue
            path = f"{folder}/{name}"
            if name.startswith(".wh."):
                raise RecipeError(
                    f"cannot copy {path}: a name that starts with `.wh.` means a deletion",
                    hint="rename it, or leave it out with ignore=",
                )
            self._witness.look(path)
            status = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                yield self._other(path, rel_path, status)
                continue
            inner_fd = _open_folder(name, folder_fd, path)
            try:
                yield self._folder(rel_path, status)
                yield from self._below(inner_fd, path, rel_path)
            finally:
                os.close(inner_fd)

    def _folder(self, rel_path: str, status: os.stat_result) -> TreeEntry:
        mode = 0o755 if self._step.mode is None else self._step.mode
        if self._step.keeps_modes:
            mode = stat.S_IMODE(status.st_mode)
        return TreeEntry(
            path=os.fsencode(rel_path),
            kind="dir",
            mode=mode | (mode & 0o444) >> 2,  # a folder without execute cannot be entered
            owner=self._step.owner,
        )

    def _other(self, path: str, rel_path: str, status: os.stat_result) -> TreeEntry:
        if stat.S_ISLNK(status.st_mode):
            return TreeEntry(
                path=os.fsencode(rel_path),
                kind="symlink",
                mode=0o777,
                owner=self._step.owner,
                linkname=os.fsencode(os.readlink(path)),
            )
        if not stat.S_ISREG(status.st_mode):
            what = _SPECIAL.get(stat.S_IFMT(status.st_mode), "a device")
            raise RecipeError(f"cannot copy {path}: it is {what}", hint="leave it out with ignore=")
        mode = self._step.mode
        if self._step.keeps_modes:
            mode = stat.S_IMODE(status.st_mode)
        elif mode is None:
            mode = 0o755 if status.st_mode & 0o100 else 0o644
        return file_entry(os.fsencode(rel_path), path, mode=mode, owner=self._step.owner)


def _open_folder(name: str, folder_fd: int, path: str) -> int:
    try:
        return os.open(name, _FOLDER_FLAGS, dir_fd=folder_fd)
    except OSError as error:
        # The kernel's message would name the last component only.
        raise OSError(error.errno, error.strerror, path) from error
