"""`ls`, `cat`, `cp`: read the files of a failed container.

They start a container from the kept state, so that permissions, owners and symbolic links are
those of the inside, and whatever a path says, nothing outside the container is read.
"""

from __future__ import annotations

import argparse
import shutil
import stat
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_rootfs.cli.output import CHANGE_LETTERS, note, print_json, print_table
from pytest_rootfs.cli.sessions import failed_container
from pytest_rootfs.cli.verbs import NotFound, UsageError, Verb, add_container, add_failure, add_json
from pytest_rootfs.errors import RootfsError

if TYPE_CHECKING:
    from pytest_rootfs.failures import KeptContainer
    from pytest_rootfs.runtime.path import ContainerPath

NAMED = 5
"""How many of the files that a copy has left out are named."""


def _configure_ls(parser: argparse.ArgumentParser) -> None:
    add_failure(parser)
    parser.add_argument("path", metavar="PATH", nargs="?", default=".", help="default: its workdir")
    add_container(parser)
    add_json(parser)


def _ls(args: argparse.Namespace) -> int:
    with failed_container(args, user="root") as (_, kept, container):
        folder = container.path(_absolute(kept, args.path))
        _require(folder, args.path)
        is_folder = folder.is_dir()
        found = sorted(folder.iterdir(), key=lambda path: path.name) if is_folder else [folder]
        marks = {change["path"]: CHANGE_LETTERS[change["kind"]] for change in kept.changes}
        entries = [_entry(path, marks.get(str(path), "")) for path in found]
        if is_folder:
            entries += _deleted(kept, str(folder), {str(path) for path in found})
    if args.json:
        print_json(entries)
    else:
        print_table(
            ["mark", "mode", "owner", "size", "modified", "name"],
            [_row(entry) for entry in entries],
            right="size",
        )
    return 0


def _entry(path: ContainerPath, mark: str) -> dict[str, object]:
    status = path.lstat()
    return {
        "name": path.name or "/",
        "path": str(path),
        "mode": stat.filemode(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
        "size": status.st_size,
        "mtime": datetime.fromtimestamp(status.st_mtime, timezone.utc).isoformat(),
        "target": str(path.readlink()) if path.is_symlink() else None,
        "change": mark or None,
    }


def _deleted(kept: KeptContainer, folder: str, present: set[str]) -> list[dict[str, object]]:
    """Return entries for what the test deleted from a folder."""
    paths = [change["path"] for change in kept.changes if change["kind"] == "deleted"]
    prefix = folder.rstrip("/") + "/"
    names = [path[len(prefix) :] for path in paths if path.startswith(prefix)]
    return [
        {"name": name, "path": prefix + name, "change": "D"}
        for name in names
        if "/" not in name and prefix + name not in present
    ]


def _row(entry: dict[str, object]) -> list[str]:
    if entry["change"] == "D":
        return ["D", "", "", "", "", str(entry["name"])]
    name = str(entry["name"]) + (f" -> {entry['target']}" if entry["target"] else "")
    owner = f"{entry['uid']}:{entry['gid']}"
    modified = str(entry["mtime"])[:19].replace("T", " ")
    mark = str(entry["change"] or "")
    return [mark, str(entry["mode"]), owner, str(entry["size"]), modified, name]


def _configure_cat(parser: argparse.ArgumentParser) -> None:
    add_failure(parser)
    parser.add_argument("paths", metavar="PATH", nargs="+", help="relative ones are in its workdir")
    add_container(parser)


def _cat(args: argparse.Namespace) -> int:
    with failed_container(args, user="root") as (_, kept, container):
        for name in args.paths:
            path = container.path(_absolute(kept, name))
            _require(path, name)
            if not path.is_file():
                what = "a folder" if path.is_dir() else "not a file"
                raise RootfsError(f"{name} is {what}", hint="ls and cp read folders, too")
            with path.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
    sys.stdout.buffer.flush()
    return 0


def _configure_cp(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="ID:PATH", help="the failure and the path in it, such as last:/var/log"
    )
    parser.add_argument("target", metavar="DEST", help="a folder, or the new name")
    add_container(parser)


def _cp(args: argparse.Namespace) -> int:
    from pytest_rootfs.runtime import copying  # noqa: PLC0415  with the engine only

    args.failure, name = _split_source(args.source)
    with failed_container(args, user="root") as (_, kept, container):
        path = container.path(_absolute(kept, name))
        _require(path, name)
        left_out = copying.LeftOut(path)
        target = copying.host_path(args.target)
        copying.copy_out(path, target, into=args.target.endswith("/"), leaves_out=left_out)
    if left_out.kernel_folders:
        note(f"{', '.join(left_out.kernel_folders)} left out: the kernel fills them, not the image")
    if left_out.special_files:
        raise RootfsError(
            _sentence(left_out.special_files),
            hint=f"see them where they are, the rest is copied: pytest-rootfs shell {args.failure}",
        )
    return 0


def _sentence(left_out: list[str]) -> str:
    """Say which special files were left out, the first few by name."""
    more = len(left_out) - NAMED
    others = f" and {more} more" if more > 0 else ""
    named = ", ".join(left_out[:NAMED])
    return f"{named}{others} left out: only files, folders and symlinks can be copied"


def _split_source(source: str) -> tuple[str, str]:
    """Split `ID:PATH`; an id that is part of a node id may hold colons, too."""
    for separator, first in ((":/", "/"), (":", "")):
        failure, found, path = source.rpartition(separator)
        if found and failure:
            return failure, first + path
    raise UsageError(f"{source!r} is not ID:PATH, such as last:/etc/passwd")


def _absolute(kept: KeptContainer, path: str) -> str:
    return str(Path(kept.workdir or "/") / path)


def _require(path: ContainerPath, name: str) -> None:
    if not (path.exists() or path.is_symlink()):
        raise NotFound(
            f"{name} does not exist in the failed container",
            hint="look around in it: pytest-rootfs ls ID /",
        )


VERBS = {
    "ls": Verb(
        description="List a folder of the failed container; A, M and D mark what the test added,\n"
        "modified and deleted.",
        configure=_configure_ls,
        act=_ls,
        examples=("ls last", "ls last /etc --json"),
    ),
    "cat": Verb(
        description="Print files of the failed container, byte by byte.",
        configure=_configure_cat,
        act=_cat,
        examples=("cat last /etc/passwd",),
    ),
    "cp": Verb(
        description="Copy a file or folder out of the failed container.\n"
        "Devices, sockets and named pipes are left out and told at the end, with exit status 1;\n"
        "of all of / also /dev, /proc and /sys, as the kernel fills them.",
        configure=_configure_cp,
        act=_cp,
        examples=("cp last:/var/log .", "cp test_install:/etc/app.conf app.conf.failed"),
    ),
}
