"""`images` and `build`: the image store."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_rootfs.cli.output import note, print_json, print_table
from pytest_rootfs.cli.projects import find_project
from pytest_rootfs.cli.sessions import open_engine
from pytest_rootfs.cli.verbs import Verb, add_json
from pytest_rootfs.errors import ImageError
from pytest_rootfs.settings import short_digest, shown_size
from pytest_rootfs.store.locks import is_no_room

if TYPE_CHECKING:
    from pytest_rootfs.engine import Engine
    from pytest_rootfs.image.built import BuiltImage

Row = dict[str, object]


def _images(args: argparse.Namespace) -> int:
    with open_engine(args) as engine:
        rows = [_row(engine, name, kind) for name, kind in _names(engine)]
    if args.json:
        print_json(rows)
        return 0
    cells = [[str(row["name"]), str(row["kind"]), *_built_cells(row)] for row in rows]
    print_table(["name", "kind", "digest", "layers", "size"], cells, right="layers size")
    for row in rows:
        if row["error"]:
            note(f"{row['name']}: {row['error']}")
    return 0


def _built_cells(row: Row) -> list[str]:
    if row["layers"] is None:
        return ["broken" if row["error"] else "not built", "", ""]
    digest = short_digest(str(row["digest"])) if row["digest"] else "not portable"
    return [digest, str(row["layers"]), shown_size(float(str(row["size"])))]


def _names(engine: Engine) -> Iterator[tuple[str, str]]:
    """Return every name that an image reference may be here, in the order of resolution."""
    from pytest_rootfs.image.references import (  # noqa: PLC0415  for this verb only
        BUILT_IN,
        recipe_names,
        shipped_folder,
    )

    seen: set[str] = set()
    candidates = [
        *((name, "recipe") for name in recipe_names(find_project(Path.cwd()).image_folders)),
        *((name, "tag") for name in engine.store.refs.list()),
        *((name, "shipped") for name in recipe_names([shipped_folder()])),
        *((name, "built in") for name in sorted(BUILT_IN)),
    ]
    for name, kind in candidates:
        if name not in seen:
            seen.add(name)
            yield name, kind


def _row(engine: Engine, name: str, kind: str) -> Row:
    built: BuiltImage | None = None
    error: str | None = None
    try:
        built = engine.builder.known(name)
    except ImageError as problem:
        error = problem.what
    except OSError as problem:
        if not is_no_room(problem):  # else it is not built: even an empty image has a manifest
            raise
    return {
        "name": name,
        "kind": kind,
        # a view of this host's files is different everywhere: no digest tells what is in it
        "digest": built.digest if built and not built.is_host else None,
        "layers": len(built.layers) if built else None,
        "size": built.size if built else None,
        "error": error,
    }


def _configure_build(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="REF", help="an image reference, such as minimal")
    parser.add_argument("--tag", metavar="NAME", help="give the image a name in the store")
    add_json(parser)


def _build(args: argparse.Namespace) -> int:
    with open_engine(args) as engine:
        built = engine.builder.build(args.image)
        if args.tag:
            built = engine.builder.tag(built, args.tag)
    if args.json:
        print_json(
            {
                "name": built.name,
                "digest": built.digest,
                "chain_id": built.chain_id,
                "layers": built.layers,
                "size": built.size,
                "config": built.config.as_oci(),
            }
        )
        return 0
    print(built.digest)
    note(f"{built.name}: {len(built.layers)} layers, {shown_size(built.size)}")
    return 0


VERBS = {
    "images": Verb(
        description="List the images that can be named here: recipes of the project, tags of the "
        "store,\nrecipes that are shipped; and which of them are built.",
        configure=add_json,
        act=_images,
        examples=("images", "images --json"),
    ),
    "build": Verb(
        description="Build an image, unless the store has it; print the digest of its manifest.",
        configure=_configure_build,
        act=_build,
        examples=("build minimal", "build minimal --tag base"),
    ),
}
