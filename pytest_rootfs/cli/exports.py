"""`export`: a failure as an archive that podman, docker and skopeo take, or just its layer.

An OCI archive is the whole failure: `import-failure` makes the same of it in another store.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_rootfs.cli.output import note
from pytest_rootfs.cli.sessions import find_container, find_failure, open_store
from pytest_rootfs.cli.verbs import NotFound, UsageError, Verb, add_container, add_failure
from pytest_rootfs.errors import RootfsError
from pytest_rootfs.failure_archive import write_archive
from pytest_rootfs.failure_start import require_files
from pytest_rootfs.store.oci import export

if TYPE_CHECKING:
    from pytest_rootfs.failures import KeptContainer
    from pytest_rootfs.store.store import Store

_FORMATS = ("oci", "docker", "layer")


def _configure(parser: argparse.ArgumentParser) -> None:
    add_failure(parser)
    parser.add_argument("file", metavar="FILE", help="the archive to write; - is standard output")
    parser.add_argument(
        "--format",
        choices=_FORMATS,
        default="oci",
        help="oci: OCI image archive (default); docker: what `docker load` reads; layer: a tar of "
        "what changed",
    )
    add_container(parser)


def _export(args: argparse.Namespace) -> int:
    to_stdout = args.file == "-"
    if to_stdout and sys.stdout.isatty():
        raise UsageError("an archive is not for a terminal: give a FILE, or redirect the output")
    if not to_stdout and not Path(args.file).absolute().parent.is_dir():
        folder = Path(args.file).parent
        raise NotFound(f"there is no folder {folder}", hint=f"make it first: mkdir -p {folder}")
    with open_store(args) as store:
        failure = find_failure(store, args.failure)
        kept = find_container(failure, args.container)
        require_files(failure, kept)
        _require_portable(kept, args)
        name = f"localhost/pytest-rootfs:{failure.id}"
        with _written(None if to_stdout else Path(args.file)) as target:
            if args.format == "oci":
                write_archive(store, failure, kept, target, name)
            else:
                _write(store, kept, target, args.format, name)
    if not to_stdout:
        note(f"{args.file}: {args.format}{'' if args.format == 'layer' else f', image {name}'}")
    return 0


def _require_portable(kept: KeptContainer, args: argparse.Namespace) -> None:
    if kept.image.is_host and args.format != "layer":
        raise RootfsError(
            f"failure {args.failure} is not portable: its image {kept.image.name!r} is this host's "
            "own root directory",
            hint=f"what changed can be: pytest-rootfs export {args.failure} {args.file} "
            "--format layer",
        )


def _write(store: Store, kept: KeptContainer, target: Path, kind: str, name: str) -> None:
    if kind == "layer":
        with store.blobs.open(kept.layer) as source, target.open("wb") as out:
            shutil.copyfileobj(source, out, 1 << 20)
    else:
        export(store, kept.manifest, target, format="docker", name=name)


@contextmanager
def _written(file: Path | None) -> Iterator[Path]:
    """Give a temporary name beside a file, which becomes the file at the end; None is stdout."""
    folder = tempfile.mkdtemp(prefix=".pytest-rootfs-", dir=file.parent if file else None)
    target = Path(folder, "archive")
    try:
        yield target
        if file:
            target.chmod(0o666 & ~_umask())
            target.replace(file)
        else:
            with target.open("rb") as source:
                shutil.copyfileobj(source, sys.stdout.buffer, 1 << 20)
            sys.stdout.buffer.flush()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


VERBS = {
    "export": Verb(
        description="Write a failure (base layers and rw layer) to a file:\n\n"
        "  oci     podman load -i FILE; skopeo copy oci-archive:FILE …\n"
        "  docker  docker load -i FILE; skopeo copy docker-archive:FILE …\n"
        "  layer   tar -tf FILE",
        configure=_configure,
        act=_export,
        examples=(
            "export last failure.tar && podman load -i failure.tar",
            "export last - --format layer | tar -t",
        ),
    ),
}
