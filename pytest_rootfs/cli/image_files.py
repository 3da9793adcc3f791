"""`import` and `export-image`: images to and from other tools."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path

from pytest_rootfs.cli.output import note
from pytest_rootfs.cli.progress import shown_progress
from pytest_rootfs.cli.sessions import open_engine, open_store
from pytest_rootfs.cli.targets import STDOUT, check_target, written
from pytest_rootfs.cli.verbs import UsageError, Verb
from pytest_rootfs.settings import shown_size

_FORMATS = ("oci", "docker", "dir")


def _configure_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", metavar="FILE", help="an archive or folder, or oci:PATH[:NAME], docker-archive:… …"
    )
    parser.add_argument("--tag", metavar="T", required=True, help="the name that it gets")


def _import(args: argparse.Namespace) -> int:
    from pytest_rootfs.image.references import check_tag, resolve  # noqa: PLC0415  for this verb
    from pytest_rootfs.store import imports, sources  # noqa: PLC0415  as above

    check_tag(args.tag)
    with open_store(args) as store:
        if args.file.startswith("dir:") and resolve(args.file, store=store, folders=()).steps:
            return _import_folder(args)
        source = sources.find_source(args.file)
        with shown_progress(f"importing {source}") as progress:
            manifest = imports.import_image(store, source, progress=progress, tell=note)
        store.refs.set(args.tag, manifest.digest, media_type=manifest.media_type)
    print(manifest.digest)
    note(f"{args.tag}: imported from {source}")
    return 0


def _import_folder(args: argparse.Namespace) -> int:
    """Make a plain folder an image of one layer."""
    with open_engine(args) as engine:
        built = engine.builder.tag(args.file, args.tag)
    print(built.digest)
    note(f"{args.tag}: made of the files in {args.file}, {shown_size(built.size)}")
    return 0


def _configure_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="REF", help="an image reference, such as minimal")
    parser.add_argument(
        "file", metavar="FILE", help="the archive or folder to write; - is standard output"
    )
    parser.add_argument(
        "--format",
        choices=_FORMATS,
        default="oci",
        help="oci: OCI image archive (default); docker: what `docker load` reads; dir: OCI image "
        "layout as a folder",
    )


def _export(args: argparse.Namespace) -> int:
    is_folder = args.format == "dir"
    if is_folder and args.file == STDOUT:
        raise UsageError("a folder cannot be written to standard output: give a FILE")
    check_target(args.file, may_be_folder=is_folder)
    with open_engine(args) as engine:
        built = engine.builder.build(args.image)
        with (
            nullcontext(Path(args.file)) if is_folder else written(args.file) as target,
            shown_progress(f"exporting {built.name}") as progress,
        ):
            engine.builder.export(built, target, args.format, progress=progress)
    if args.file != STDOUT:
        note(f"{args.file}: {args.format}, image {built.name} ({built.digest})")
    return 0


VERBS = {
    "import": Verb(
        description="Bring an image into the store and give it a name; print the digest of its "
        "manifest.\n\n"
        "  oci:DIR[:NAME]              OCI image layout, a folder\n"
        "  oci-archive:FILE[:NAME]     the same as an archive\n"
        "  docker-archive:FILE[:TAG]   what `docker save` or `podman save` writes\n"
        "  dir:DIR                     what `skopeo copy … dir:DIR` writes, or else a plain folder "
        "of files\n\n"
        "Without a scheme FILE is looked at. Of several platforms this machine's is taken. Blobs "
        "stay as\nthey are, so an image that is exported again has the digest it came with.",
        configure=_configure_import,
        act=_import,
        examples=(
            "import oci-archive:image.tar --tag app",
            "import docker-archive:app.tar --tag app",
        ),
    ),
    "export-image": Verb(
        description="Write an image for other tools, building it first:\n\n"
        "  oci     podman load -i FILE; skopeo copy oci-archive:FILE …\n"
        "  docker  docker load -i FILE; skopeo copy docker-archive:FILE …\n"
        "  dir     skopeo copy oci:FILE …; umoci unpack --image FILE:NAME …",
        configure=_configure_export,
        act=_export,
        examples=("export-image app app.tar", "export-image app app.tar --format docker"),
    ),
}
