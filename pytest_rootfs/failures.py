"""Keep what a failed test left in its containers.

A failure is an OCI image in the store (the base layers and the rw layer) and
`failures/<id>/failure.json`. Evidence that cannot be had is written down as such: nothing here
changes the outcome of a test. Finding and removing is in `failure_shelf`, the data in
`failure_record`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pytest_rootfs.errors import RootfsError
from pytest_rootfs.failure_image import write_image
from pytest_rootfs.failure_record import Failure, JsonObject, KeptContainer, KeptImage, Phase
from pytest_rootfs.failure_shelf import FailureAmbiguous, FailureNotFound, Failures, belongs
from pytest_rootfs.settings import shown_size

if TYPE_CHECKING:
    from pytest_rootfs.engine import Engine
    from pytest_rootfs.image.built import BuiltImage
    from pytest_rootfs.runtime.container import Container
    from pytest_rootfs.runtime.spec import ContainerOptions
    from pytest_rootfs.store.store import Store

__all__ = [
    "Failure",
    "FailureAmbiguous",
    "FailureNotFound",
    "Failures",
    "KeptContainer",
    "KeptImage",
    "belongs",
    "keep",
    "look",
    "summary_line",
]

_ID_ATTEMPTS = 20
_T = TypeVar("_T")


def keep(
    engine: Engine,
    containers: Sequence[Container],
    *,
    nodeid: str,
    phase: Phase,
    outcome: str,
    message: str,
    rootdir: Path,
    timings: Mapping[str, float],
    policy: str = "failed",
    images: Sequence[str] = (),
) -> Failure:
    """Keep the containers of a test, live or dead but retained, the main one first.

    Whatever cannot be had (a layer on a full disk, the processes of a dead container) is written
    down in its place, with the reason. Atomic; safe under xdist. Raises `OSError` only when the
    record itself cannot be written.
    """
    failure = Failure(
        id=_new_id(nodeid),
        nodeid=nodeid,
        when=phase,
        outcome=outcome,
        time=datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        message=message,
        rootdir=str(rootdir),
        containers=tuple(_with_files(engine.store, each) for each in containers),
        keep=policy,
        images=tuple(images),
        timings=dict(timings),
    )
    return _publish(Failures(engine.store), failure)


def look(container: Container) -> KeptContainer:
    """Return the evidence of a container, live or dead but retained, without its files."""
    gaps: list[str] = []
    options, built, defaults = container.options, container.built, container.defaults
    processes: list[JsonObject] = []
    if not container.is_closed:
        processes = _evidence(gaps, "processes", container.processes, [])
    return KeptContainer(
        name=container.name,
        image=_image(built),
        user=defaults["user"],
        workdir=defaults["cwd"],
        hostname=container.hostname,
        env=dict(defaults["env"]),
        options=_asked(options),
        limits={**dataclasses.asdict(container.limits), "timeout": options.timeout_s},
        limits_hit=tuple(_evidence(gaps, "limits", container.limits_hit, [])),
        stats=_evidence(gaps, "stats", lambda: dataclasses.asdict(container.stats()), {}),
        changes=tuple(_evidence(gaps, "changes", lambda: _changes(container), [])),
        commands=tuple(dataclasses.asdict(record) for record in container.commands),
        processes=tuple(processes),
        gaps=tuple(gaps),
    )


def summary_line(failure: Failure) -> str:
    """Return the failure's line in the terminal summary."""
    count, several = failure.change_count, len(failure.containers) > 1
    where = f" in {len(failure.containers)} containers" if several else ""
    what = f"{count} change{'' if count == 1 else 's'}{where}, {shown_size(failure.size)}"
    verb = "shell"
    if not failure.manifest:
        what, verb = "files not kept", "show"
    if failure.outcome != "failed":
        what = f"{failure.outcome}, {what}"
    return f"{failure.id}  {failure.nodeid}  {what}   pytest-rootfs {verb} {failure.id}"


def _publish(failures: Failures, failure: Failure) -> Failure:
    for _ in range(_ID_ATTEMPTS):
        try:
            return failures.publish(failure)
        except FileExistsError:  # 24 bits: of a thousand failures two share an id in 3 of 100 cases
            failure = dataclasses.replace(failure, id=_new_id(failure.nodeid))
    raise FileExistsError(f"no free id for a failure in {failures.store.failures_dir}")


def _new_id(nodeid: str) -> str:
    seed = f"{nodeid} {time.time_ns()} {os.getpid()}".encode(errors="surrogateescape")
    return hashlib.sha256(seed + os.urandom(8)).hexdigest()[:6]


def _with_files(store: Store, container: Container) -> KeptContainer:
    """Return the evidence of a container and put its files into the store.

    What packing writes is held by the open store, so no collection comes in between.
    """
    seen = look(container)  # first: packing stops the processes
    gaps = list(seen.gaps)
    layer = _evidence(gaps, "files", container.pack_layer, None)
    if layer is None:
        return dataclasses.replace(seen, gaps=tuple(gaps))
    manifest = _evidence(gaps, "files", lambda: write_image(store, seen, layer), "")
    return dataclasses.replace(
        seen,
        gaps=tuple(gaps),
        manifest=manifest,
        layer=layer.digest if manifest else "",
        size=layer.size if manifest else 0,
    )


def _asked(options: ContainerOptions) -> JsonObject:
    """Return the keywords that somebody set, as JSON has them."""
    asked = {key: value for key, value in dataclasses.asdict(options).items() if value is not None}
    return dict(json.loads(json.dumps(asked, default=str)))


def _image(built: BuiltImage) -> KeptImage:
    return KeptImage(
        name=built.name,
        digest=built.digest,
        chain_id=built.chain_id,
        layers=tuple(built.layers),
        size=built.size,
        is_host=built.is_host,
        config=built.config.as_oci(),
    )


def _changes(container: Container) -> list[JsonObject]:
    return [dataclasses.asdict(change) for change in container.changes().values()]


def _evidence(gaps: list[str], subject: str, ask: Callable[[], _T], missing: _T) -> _T:
    """Ask for a piece of evidence; if it cannot be had, note why."""
    try:
        return ask()
    except (RootfsError, OSError) as error:
        gaps.append(f"{subject}: {str(error).splitlines()[0]}")
        return missing
