"""`export`: a failure as an archive that podman, docker and skopeo take, or just its layer.

An OCI archive is the whole failure: `import-failure` makes the same of it in another store.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_rootfs.cli.output import note
from pytest_rootfs.cli.sessions import find_container, find_failure, open_store
from pytest_rootfs.cli.targets import STDOUT, check_target, written
from pytest_rootfs.cli.verbs import Verb, add_container, add_failure
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
    check_target(args.file)
    with open_store(args) as store:
        failure = find_failure(store, args.failure)
        kept = find_container(failure, args.container)
        require_files(failure, kept)
        _require_portable(kept, args)
        name = f"localhost/pytest-rootfs:{failure.id}"
        with written(args.file) as target:
            if args.format == "oci":
                write_archive(store, failure, kept, target, name)
            else:
                _write(store, kept, target, args.format, name)
    if args.file != STDOUT:
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
