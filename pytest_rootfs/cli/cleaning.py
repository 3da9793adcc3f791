"""`rm` and `gc`: delete failures, and what nothing refers to."""

from __future__ import annotations

import argparse
import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_rootfs.cli.output import counted, note
from pytest_rootfs.cli.sessions import open_engine, open_store
from pytest_rootfs.cli.verbs import UsageError, Verb
from pytest_rootfs.failures import Failures
from pytest_rootfs.settings import parse_size, shown_size

if TYPE_CHECKING:
    from pytest_rootfs.engine import Engine
    from pytest_rootfs.store.store import Store


def _configure_rm(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "wanted",
        metavar="ID|NAME",
        nargs="*",
        help="a failure (short id, unique part of a node id, or `last`) or the name of an image",
    )
    parser.add_argument("--all", action="store_true", help="every failure of this project")


def _rm(args: argparse.Namespace) -> int:
    if bool(args.wanted) == args.all:
        raise UsageError("give ids or names, or --all")
    with open_store(args) as store:
        failures = Failures(store)
        if args.all:
            ids = [failure.id for failure in failures.list(Path.cwd())]
            tags: list[str] = []
        else:  # all are looked up before the first is removed: `rm last last` is one failure
            tags = [wanted for wanted in args.wanted if _is_tag(store, failures, wanted)]
            ids = [_failure_id(failures, wanted) for wanted in args.wanted if wanted not in tags]
        for tag in dict.fromkeys(tags):
            store.refs.delete(tag)
            print(tag)
        for failure_id in dict.fromkeys(ids):
            failures.remove(failure_id)
            print(failure_id)
    return 0


def _is_tag(store: Store, failures: Failures, wanted: str) -> bool:
    """Tell whether a word names an image: more than a part of a node id, less than an id."""
    ids = {*failures.damaged(), *(failure.id for failure in failures.list()), "last"}
    return wanted not in ids and wanted in store.refs.list()


def _failure_id(failures: Failures, wanted: str) -> str:
    if wanted in failures.damaged():
        return wanted
    return failures.get(wanted, project=Path.cwd()).id


def _configure_gc(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--all",
        action="store_true",
        help="forget results of build steps that were used in the last 14 days, too",
    )
    parser.add_argument(
        "--size",
        metavar="SIZE",
        help="how large the store may stay, such as 5G: what can be made again goes, too, the "
        "least recently used first",
    )


def _gc(args: argparse.Namespace) -> int:
    from pytest_rootfs.store.collect import RETENTION_S, gc  # noqa: PLC0415  for this verb only

    try:
        size_bytes = parse_size("--size", args.size) if args.size else None
    except ValueError as error:
        raise UsageError(str(error)) from error
    with open_engine(args) as engine:
        retention_s = -1.0 if args.all else RETENTION_S
        remove = functools.partial(_remove, engine)
        found = gc(engine.store, retention_s=retention_s, size_bytes=size_bytes, remove=remove)
    kinds = {"blob": found.blobs, "unpacked layer": found.layers, "build result": found.results}
    counts = ", ".join(counted(count, what) for what, count in kinds.items())
    print(f"{shown_size(found.freed_bytes)} freed: {counts}")
    if size_bytes and found.size_bytes and found.size_bytes > size_bytes:
        note(
            f"{shown_size(found.size_bytes)} are left: tags, kept failures and running sessions "
            "hold them (pytest-rootfs rm)"
        )
    elif not (found.freed_bytes or args.all):
        note("--all forgets results of build steps, too, and frees images that no tag names")
    for name in found.left:
        note(f"could not be deleted: {name}")
    return 1 if found.left else 0


def _remove(engine: Engine, folder_fd: int, name: bytes) -> int:
    """Delete a tree: as ourselves, else as the containers' root, whose files layers hold.

    Returns the bytes freed.
    """
    from pytest_rootfs.kernel.trees import remove_tree_at  # noqa: PLC0415  for this verb only

    try:
        return remove_tree_at(folder_fd, name)
    except PermissionError:
        done = engine.session.job("remove_tree", {"name": os.fsdecode(name)}, [folder_fd])
        return int(done["freed_bytes"])


VERBS = {
    "rm": Verb(
        description="Delete kept failures, or take names from images, as `docker rmi` does; "
        "`pytest-rootfs gc` then\nfrees their space. A word that is both is a failure when it is "
        "its id, else an image.",
        configure=_configure_rm,
        act=_rm,
        examples=("rm last", "rm f3a9c1 81d0be", "rm --all"),
    ),
    "gc": Verb(
        description="Delete what nothing refers to: no tag, kept failure, recent build or running "
        "session.\nSafe while tests run. With --size the store shrinks to it: unpacked layers go "
        "first, then\nuncompressed copies of imported layers, then build results.",
        configure=_configure_gc,
        act=_gc,
        examples=("gc", "gc --all"),
    ),
}
