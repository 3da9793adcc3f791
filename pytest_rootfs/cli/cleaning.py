"""`rm` and `gc`: delete failures, and what nothing refers to."""

from __future__ import annotations

import argparse
import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_rootfs.cli.output import note
from pytest_rootfs.cli.sessions import open_engine, open_store
from pytest_rootfs.cli.verbs import UsageError, Verb
from pytest_rootfs.failures import Failures
from pytest_rootfs.settings import shown_size

if TYPE_CHECKING:
    from pytest_rootfs.engine import Engine


def _configure_rm(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "failures", metavar="ID", nargs="*", help="short id, unique part of a node id, or `last`"
    )
    parser.add_argument("--all", action="store_true", help="every failure of this project")


def _rm(args: argparse.Namespace) -> int:
    if bool(args.failures) == args.all:
        raise UsageError("give ids, or --all")
    failures = Failures(open_store(args))
    damaged = set(failures.damaged())
    if args.all:
        ids = [failure.id for failure in failures.list(Path.cwd())]
    else:  # all are looked up before the first is removed: `rm last last` is one failure
        ids = [
            wanted if wanted in damaged else failures.get(wanted, project=Path.cwd()).id
            for wanted in args.failures
        ]
    for failure_id in dict.fromkeys(ids):
        failures.remove(failure_id)
        print(failure_id)
    return 0


def _configure_gc(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--all",
        action="store_true",
        help="forget results of build steps that were used in the last 14 days, too",
    )


def _gc(args: argparse.Namespace) -> int:
    from pytest_rootfs.store.collect import RETENTION_S, gc  # noqa: PLC0415  for this verb only

    with open_engine(args) as engine:
        retention_s = -1.0 if args.all else RETENTION_S
        remove = functools.partial(_remove, engine)
        found = gc(engine.store, retention_s=retention_s, remove=remove)
    counts = f"{found.blobs} blobs, {found.layers} unpacked layers, {found.results} build results"
    print(f"{shown_size(found.freed_bytes)} freed: {counts}")
    if not (found.freed_bytes or args.all):
        note("--all forgets results of build steps, too, and frees images that no tag names")
    for name in found.left:
        note(f"could not be deleted: {name}")
    return 1 if found.left else 0


def _remove(engine: Engine, folder_fd: int, name: bytes) -> None:
    """Delete a tree: as ourselves, else as the containers' root, whose files layers hold."""
    from pytest_rootfs.kernel.trees import remove_tree_at  # noqa: PLC0415  for this verb only

    try:
        remove_tree_at(folder_fd, name)
    except PermissionError:
        engine.session.job("remove_tree", {"name": os.fsdecode(name)}, [folder_fd])


VERBS = {
    "rm": Verb(
        description="Delete kept failures; `pytest-rootfs gc` then frees their space.",
        configure=_configure_rm,
        act=_rm,
    ),
    "gc": Verb(
        description="Delete what nothing refers to: no tag, kept failure, recent build or running "
        "session.\nSafe while tests run.",
        configure=_configure_gc,
        act=_gc,
    ),
}
