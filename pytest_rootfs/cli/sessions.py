"""Open what verbs work on: the store, an engine, a failure, a container with its files."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_rootfs.cli.output import note
from pytest_rootfs.cli.projects import find_project
from pytest_rootfs.cli.verbs import NotFound, UsageError
from pytest_rootfs.failure_start import built_image, require_files
from pytest_rootfs.failures import Failure, Failures, KeptContainer
from pytest_rootfs.options import default_store
from pytest_rootfs.store.store import Store

if TYPE_CHECKING:
    from pytest_rootfs.engine import Engine
    from pytest_rootfs.runtime.container import Container

Mounts = Sequence[tuple[str, str, str]]


def store_root(args: argparse.Namespace) -> Path:
    """Return the folder of the store: `--store`, the project, the environment, the default."""
    if args.store:
        return Path(args.store).absolute()
    if project_store := find_project(Path.cwd()).store:
        return project_store
    return default_store(os.environ)


def open_store(args: argparse.Namespace) -> Store:
    """Open the store, made if it does not exist."""
    return Store.open(store_root(args))


@contextmanager
def open_engine(args: argparse.Namespace) -> Iterator[Engine]:
    """Open an engine on the store; closed, with every container of it, at the end."""
    from pytest_rootfs.engine import Engine, EngineSettings  # noqa: PLC0415  some verbs need none

    settings = EngineSettings(
        store=store_root(args),
        limits="strict",
        image_folders=find_project(Path.cwd()).image_folders,
    )
    engine = Engine(settings, warn=note, tell=note)
    try:
        yield engine
    finally:
        engine.close()


def find_failure(store: Store, wanted: str) -> Failure:
    """Return the failure that the user means."""
    return Failures(store).get(wanted, project=Path.cwd())


def find_container(failure: Failure, name: str | None) -> KeptContainer:
    """Return the container that the user means, the first without a name."""
    if name is None:
        return failure.main
    if kept := failure.container(name):
        return kept
    names = ", ".join(each.name for each in failure.containers)
    raise NotFound(
        f"failure {failure.id} has no container {name!r}",
        detail=f"its containers: {names}",
        hint="give one of those, or leave -c out for the first",
    )


@contextmanager
def failed_container(
    args: argparse.Namespace, *, mounts: Mounts = (), **options: object
) -> Iterator[tuple[Failure, KeptContainer, Container]]:
    """Start a new container with the files of a failed one, thrown away at the end.

    `options` go on top of the failed container's own user, working directory and environment.
    """
    with open_engine(args) as engine:
        failure = find_failure(engine.store, args.failure)
        kept = find_container(failure, args.container)
        require_files(failure, kept)
        yield failure, kept, start_kept(engine, kept, mounts=mounts, **options)


def start_kept(
    engine: Engine, kept: KeptContainer, *, mounts: Mounts = (), **options: object
) -> Container:
    """Start a container from a kept one's image and rw layer, with further mounts."""
    from pytest_rootfs.runtime.spec import ContainerOptions  # noqa: PLC0415  with the engine only

    own = _own_keywords(kept)
    keywords = {**own, **options, "mounts": [*own["mounts"], *mounts]}
    try:
        checked = ContainerOptions.from_keywords(keywords, defaults=None)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return engine.start_built(
        built_image(kept.image, engine.store),
        name=kept.name,
        options=checked,
        extra_layers=[kept.layer],
    )


def _own_keywords(kept: KeptContainer) -> dict[str, Any]:  # Any: the keywords of the mark
    """Return what the failed container was started with, but its limits.

    Mounts come back read-only: looking at a failure changes nothing on the host.
    """
    asked = kept.options
    mounts = [(each["source"], each["target"], "ro") for each in asked.get("mounts", ())]
    gone = [source for source, *_ in mounts if not os.path.exists(source)]
    for source in gone:
        note(f"{source} was mounted, and does not exist any more")
    return {
        "user": kept.user,
        "workdir": kept.workdir,
        "env": {name: text for name, text in kept.env.items() if name not in kept.masked_env},
        "hostname": kept.hostname or None,
        **{key: asked.get(key) for key in ("network", "capabilities")},
        "mounts": [mount for mount in mounts if mount[0] not in gone],
        "tmpfs": [(each["target"], each["size_bytes"]) for each in asked.get("tmpfs", ())],
    }


def start_image(engine: Engine, kept: KeptContainer) -> Container:
    """Start a container from a kept one's image, without its rw layer."""
    from pytest_rootfs.runtime.spec import ContainerOptions  # noqa: PLC0415  as above

    return engine.start_built(
        built_image(kept.image, engine.store), name="image", options=ContainerOptions()
    )
