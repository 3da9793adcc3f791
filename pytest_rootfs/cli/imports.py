"""`import-failure`: a failure that was exported elsewhere, kept here as if it had happened here."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from pytest_rootfs.cli.output import note, print_json
from pytest_rootfs.cli.projects import find_project
from pytest_rootfs.cli.sessions import open_store
from pytest_rootfs.cli.verbs import NotFound, Verb, add_json
from pytest_rootfs.errors import RootfsError
from pytest_rootfs.failure_archive import FailureArchive
from pytest_rootfs.failures import Failure, Failures

_ID_ATTEMPTS = 20


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file",
        metavar="FILE",
        help="what `export --format oci` has written, also compressed by gzip or zstd; - is "
        "standard input",
    )
    parser.add_argument(
        "--rootdir",
        metavar="DIR",
        help="the project that it belongs to here (default: its own rootdir if that exists, else "
        "the project around the current folder)",
    )
    add_json(parser)


def _import_failure(args: argparse.Namespace) -> int:
    with open_store(args) as store, FailureArchive(store) as archive:
        if args.file == "-":
            found = archive.read(sys.stdin.buffer, "standard input")
        else:
            with _opened(args.file) as file:
                found = archive.read(file, args.file)
        found = replace(found, rootdir=_rootdir(args, found))
        failures = Failures(store)
        failure = _known(failures, found)
        if failure is None:
            failure = _publish(failures, found)
            archive.add_files(failures.folder(failure))
        elif not args.json:
            note(f"failure {failure.id} is here already")
    if args.json:
        print_json(failure.to_json())
        return 0
    print(failure.id)
    for gap in dict.fromkeys(gap for kept in failure.containers for gap in kept.gaps):
        if gap.startswith("programs: "):
            note(gap)
    note(f"{failure.nodeid}, in project {failure.rootdir}: pytest-rootfs show {failure.id}")
    return 0


def _opened(name: str) -> BinaryIO:
    try:
        return open(name, "rb")
    except FileNotFoundError as error:
        raise NotFound(
            f"there is no file {name}", hint="write one: pytest-rootfs export ID FILE --format oci"
        ) from error
    except OSError as error:
        raise RootfsError(
            f"cannot read {name}: {error.strerror}", hint=f"look at it: ls -ld {name}"
        ) from error


def _rootdir(args: argparse.Namespace, failure: Failure) -> str:
    if args.rootdir:
        return str(Path(args.rootdir).resolve())
    if os.path.isdir(failure.rootdir):
        return failure.rootdir
    return str(find_project(Path.cwd()).root)


def _known(failures: Failures, wanted: Failure) -> Failure | None:
    """Return the failure if it is in the store already, in whatever project."""
    same = [
        each
        for each in failures.list()
        if (each.nodeid, each.time, each.layer) == (wanted.nodeid, wanted.time, wanted.layer)
    ]
    return same[0] if same else None


def _publish(failures: Failures, failure: Failure) -> Failure:
    """Keep a failure under its own id, or under a new one if another failure has that."""
    for _ in range(_ID_ATTEMPTS):
        try:
            return failures.publish(failure)
        except FileExistsError:
            new_id = os.urandom(3).hex()
            note(f"another failure is called {failure.id}: this one is {new_id} here")
            failure = replace(failure, id=new_id)
    raise RootfsError(
        f"no free id for a failure in {failures.store.failures_dir}",
        hint="remove some: pytest-rootfs rm ID",
    )


VERBS = {
    "import-failure": Verb(
        description="Keep a failure that `pytest-rootfs export ID FILE --format oci` wrote on "
        "another machine\nor from another store, and print its id. `show`, `diff`, `shell` "
        "and others\nwork as they did there.",
        configure=_configure,
        act=_import_failure,
        examples=("import-failure failure.tar", "import-failure failure.tar --rootdir ."),
    ),
}
