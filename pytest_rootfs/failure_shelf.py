"""Find, publish and remove kept failures: the folder `failures/` of a store.

A failure is published by one rename: whole or absent, never half. Several processes may list,
publish and remove at once. What a failure names in the store is never collected; removing a
failure leaves its blobs to the collector.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_rootfs.errors import RootfsError
from pytest_rootfs.failure_record import FILE, Failure
from pytest_rootfs.store.locks import claim_folder, fresh_name

if TYPE_CHECKING:
    from pytest_rootfs.store.store import Store

LAST = "last"
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY)
_SHOWN_MATCHES = 5
Ids = list[str]  # a class with a method `list` cannot name the type


class FailureNotFound(RootfsError):
    """No kept failure has this id; the hint lists near matches."""


class FailureAmbiguous(RootfsError):
    """Several kept failures fit; the detail lists them."""


@dataclass(frozen=True, slots=True)
class Failures:
    """The kept failures of a store; safe to use from several processes at once."""

    store: Store

    def list(self, project: Path | None = None) -> list[Failure]:
        """Return the failures, newest first; with a folder, those that belong to it."""
        found = [failure for failure in self._read_all() if failure is not None]
        if project is not None:
            found = [failure for failure in found if belongs(failure, project)]
        return sorted(found, key=lambda failure: (failure.time, failure.id), reverse=True)

    def damaged(self) -> Ids:
        """Return the names of folders under `failures/` that hold no readable failure."""
        return [name for name in self._names() if self._read(name) is None]

    def get(self, wanted: str, *, project: Path | None = None) -> Failure:
        """Return the failure that an id, a part of a node id, or `last` means.

        An id or its beginning is looked for everywhere, the others in the project first. Of
        several attempts of one test the newest is meant. Raises `FailureNotFound` with the near
        matches and `FailureAmbiguous` with the matches.
        """
        every = self.list()
        mine = [each for each in every if project is None or belongs(each, project)]
        if wanted == LAST:
            if not mine:
                raise _nothing_kept(every, project)
            return mine[0]
        for candidates in (mine, every):
            for spelling in _spellings(wanted):
                if found := _matches(spelling, candidates):
                    return found[0]
        if wanted in self.damaged():
            raise FailureNotFound(
                f"failure {wanted} cannot be read: its {FILE} is missing, damaged or of a newer "
                "version",
                hint=f"remove it: pytest-rootfs rm {wanted}",
            )
        raise _not_found(wanted, mine or every)

    def remove(self, failure_id: str) -> None:
        """Delete a failure; its blobs stay until the store is collected.

        Raises `FailureNotFound`. A second remover of the same failure succeeds as well.
        """
        place = self.store.failures_dir / failure_id
        if os.sep in failure_id or failure_id in ("", ".", "..") or not place.is_dir():
            raise _not_found(failure_id, self.list())
        doomed = self.store.root / "trash" / fresh_name()
        try:
            place.rename(doomed)
        except FileNotFoundError:
            return
        shutil.rmtree(doomed, ignore_errors=True)  # whatever stays in trash/ is collected later

    def sweep(self, count: int, size_bytes: int, *, project: Path | None = None) -> Ids:
        """Remove the oldest failures beyond a count and a size; return their ids.

        With a project only those whose rootdir it is. The newest one always stays, however large.
        """
        kept_bytes = 0
        doomed = []
        failures = [each for each in self.list() if project in (None, Path(each.rootdir))]
        for position, failure in enumerate(failures):
            kept_bytes += failure.size
            if position > 0 and (position >= count or kept_bytes > size_bytes):
                doomed.append(failure.id)
        for failure_id in doomed:
            with suppress(FailureNotFound):  # another session sweeps as well
                self.remove(failure_id)
        return doomed

    def publish(self, failure: Failure) -> Failure:
        """Write a failure, complete, under its id, and return it with its folder.

        Not synced, which takes longer than all else: it survives pytest, not the machine, after
        whose end `damaged` may list it. Raises `FileExistsError` if the id is taken.
        """
        staged, lock_fd = claim_folder(self.store.root / "tmp")
        try:
            with (staged / FILE).open("x", encoding="utf-8", errors="surrogateescape") as out:
                # dumps, as dump has no fast way
                out.write(json.dumps(failure.to_json(), ensure_ascii=False, default=str) + "\n")
            staged.rename(self.store.failures_dir / failure.id)
        except OSError as error:
            shutil.rmtree(staged, ignore_errors=True)
            if error.errno in _TAKEN:
                raise FileExistsError(error.errno, "this id is taken", failure.id) from error
            raise
        finally:
            os.close(lock_fd)
        return replace(failure, folder=self.folder(failure))

    def folder(self, failure: Failure) -> Path:
        """Return the folder of a failure, where hooks may add files."""
        return self.store.failures_dir / failure.id

    def _names(self) -> Ids:
        try:
            return sorted(os.listdir(self.store.failures_dir))
        except FileNotFoundError:
            return []

    def _read_all(self) -> Iterator[Failure | None]:
        return (self._read(name) for name in self._names())

    def _read(self, name: str) -> Failure | None:
        try:
            folder = self.store.failures_dir / name
            with (folder / FILE).open(encoding="utf-8", errors="surrogateescape") as file:
                return Failure.from_json(json.load(file), folder=folder)
        except (OSError, ValueError):
            return None  # removed meanwhile, or told by damaged()


def belongs(failure: Failure, folder: Path) -> bool:
    """Tell whether a failure's rootdir is a folder, above it or below it."""
    rootdir, folder = Path(failure.rootdir), folder.absolute()
    return rootdir == folder or rootdir in folder.parents or folder in rootdir.parents


def _spellings(wanted: str) -> Iterable[str]:
    r"""Return what the user typed, and as pytest writes it in node ids: `é` is `\xe9`."""
    text = wanted.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return dict.fromkeys((wanted, text.encode("unicode_escape").decode("ascii")))


def _matches(wanted: str, candidates: Sequence[Failure]) -> list[Failure]:
    """Return the failures meant, newest first, all of one test; the closest kind of match wins."""
    kinds = (
        [each for each in candidates if each.id == wanted],
        [each for each in candidates if each.nodeid == wanted],
        [each for each in candidates if len(wanted) >= 2 and each.id.startswith(wanted)],
        [each for each in candidates if wanted and each.nodeid.endswith(f"::{wanted}")],
        [each for each in candidates if wanted and wanted in each.nodeid],
    )
    found = next((matches for matches in kinds if matches), [])
    if len({each.nodeid for each in found}) > 1:
        raise FailureAmbiguous(
            f"{wanted!r} fits {len(found)} kept failures",
            detail=_listed(found),
            hint="give the id, or more of the node id",
        )
    return found


def _listed(failures: Sequence[Failure]) -> str:
    lines = [f"  {each.id}  {each.nodeid}" for each in failures[:_SHOWN_MATCHES]]
    if len(failures) > _SHOWN_MATCHES:
        lines.append(f"  … and {len(failures) - _SHOWN_MATCHES} more")
    return "\n".join(lines)


def _nothing_kept(every: Sequence[Failure], project: Path | None) -> FailureNotFound:
    if not every:
        return FailureNotFound(
            "no failure is kept", hint="a container test that fails leaves one: run pytest"
        )
    return FailureNotFound(
        f"no failure of the project at {project} is kept",
        detail=f"of other projects {len(every)} are kept, the newest first:\n{_listed(every)}",
        hint="give an id, or see `pytest-rootfs failures --all`",
    )


def _not_found(wanted: str, candidates: Sequence[Failure]) -> FailureNotFound:
    names = {each.id: each for each in candidates} | {each.nodeid: each for each in candidates}
    close = get_close_matches(wanted, names, n=_SHOWN_MATCHES, cutoff=0.5)
    near = list({names[name].id: names[name] for name in close}.values())
    return FailureNotFound(
        f"no kept failure is called {wanted!r}",
        detail=f"near matches:\n{_listed(near)}" if near else "",
        hint="see `pytest-rootfs failures`, or with --all those of every project",
    )
