"""`inspect` and `history`: what an image in the store is, and how it was made."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any  # Any: JSON

from pytest_rootfs.cli.output import note, print_json, print_table, safe
from pytest_rootfs.cli.sessions import open_engine
from pytest_rootfs.cli.verbs import NotFound, Verb, add_json
from pytest_rootfs.settings import short_digest, shown_size

if TYPE_CHECKING:
    from pytest_rootfs.image.built import BuiltImage
    from pytest_rootfs.store.manifests import StoredImage
    from pytest_rootfs.store.store import Store

Json = dict[str, Any]  # see the import


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="REF", help="an image reference, such as minimal")
    add_json(parser)


@contextmanager
def _found(args: argparse.Namespace) -> Iterator[tuple[Store, BuiltImage, StoredImage]]:
    """Find an image that is built, without building it."""
    from pytest_rootfs.store.manifests import read_image  # noqa: PLC0415  for these verbs only

    with open_engine(args) as engine:
        built = engine.builder.known(args.image)
        if built is None:
            raise NotFound(
                f"image {args.image} is not in the store",
                hint=f"bring it there: pytest-rootfs build {args.image}",
            )
        if built.is_host:
            note(f"{built.name} is a view of this host's files, which no digest describes")
        yield engine.store, built, read_image(engine.store, built.digest)


def _inspect(args: argparse.Namespace) -> int:
    with _found(args) as (store, built, image):
        details = _details(store, built, image)
    if args.json:
        print_json(details)
        return 0
    lines = list(_lines(details))
    width = max(len(key) for key, _ in lines) + 2
    for key, text in lines:
        print(f"{key:<{width}}{safe(text)}")
    print()
    rows = [
        [short_digest(layer["diff_id"]), shown_size(layer["size"]), _travels(layer)]
        for layer in details["layers"]
    ]
    print_table(["layer", "size", "as it travels"], rows, right="size")
    return 0


def _details(store: Store, built: BuiltImage, image: StoredImage) -> Json:
    config = image.config
    layers = [
        {"diff_id": diff_id, "size": store.blobs.size(diff_id), "blob": layer.as_json()}
        for diff_id, layer in zip(image.diff_ids, image.layers, strict=True)
    ]
    return {
        "name": built.name,
        "digest": image.digest,
        "media_type": image.media_type,
        "chain_id": built.chain_id,
        "created": config.get("created"),
        "platform": {key: config.get(key) for key in ("os", "architecture", "variant")},
        "size": built.size,
        "layers": layers,
        "config": config.get("config") or {},
        "annotations": dict(image.annotations),
        "is_host": built.is_host,
    }


def _lines(details: Json) -> Iterator[tuple[str, str]]:
    """Yield what an image says of itself, a line each; what it does not say is left out."""
    yield "name", details["name"]
    yield "digest", details["digest"]
    yield "platform", "/".join(str(each) for each in details["platform"].values() if each)
    if details["created"]:
        yield "created", str(details["created"])
    yield "size", f"{shown_size(details['size'])} in {len(details['layers'])} layers"
    for key, value in sorted(details["config"].items()):
        name = key.lower()
        if isinstance(value, dict):
            for inner, item in value.items():
                yield name, f"{inner}={item}" if isinstance(item, str) else str(inner)
        elif key == "Env" and isinstance(value, list):
            for item in value:
                yield name, str(item)
        elif value:
            yield name, " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _travels(layer: Json) -> str:
    """Say in which form a layer was imported and leaves again, when that is another one."""
    blob = layer["blob"]
    if blob["digest"] == layer["diff_id"]:
        return ""
    kind = str(blob["mediaType"]).rpartition("tar")[2].lstrip("+.")
    return f"{kind} {shown_size(blob['size'])} {short_digest(str(blob['digest']))}".strip()


def _history(args: argparse.Namespace) -> int:
    with _found(args) as (store, _, image):
        rows = _steps(store, image)
    if args.json:
        print_json(rows)
        return 0
    cells = [
        [
            str(row["created"] or ""),
            "" if row["size"] is None else shown_size(row["size"]),
            short_digest(str(row["layer"] or "")),
            str(row["created_by"] or row["comment"] or ""),
        ]
        for row in rows
    ]
    print_table(["created", "size", "layer", "made by"], cells, right="size")
    return 0


def _steps(store: Store, image: StoredImage) -> list[Json]:
    """Return the steps that made an image, the last one first, as `docker history` does."""
    layers = iter(image.diff_ids)
    rows = []
    for step in image.history:
        layer = None if step.get("empty_layer") else next(layers)
        rows.append(
            {
                **{key: step.get(key) for key in ("created", "created_by", "comment", "author")},
                "layer": layer,
                "size": None if layer is None else store.blobs.size(layer),
            }
        )
    return rows[::-1]


VERBS = {
    "inspect": Verb(
        description="Show what an image of the store is: its digest, layers and config.",
        configure=_configure,
        act=_inspect,
        examples=("inspect minimal", "inspect app --json"),
    ),
    "history": Verb(
        description="Show the steps that made an image, the last one first.",
        configure=_configure,
        act=_history,
        examples=("history minimal",),
    ),
}
