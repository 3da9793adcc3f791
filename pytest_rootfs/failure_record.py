"""What is known about a kept failure, as data, and its form in `failure.json`.

The main container's evidence stands at the top level of the file; `containers` holds the same
keys for every further container of the test. Reading refuses a file of a newer format and
ignores keys that it does not know.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pytest_rootfs import failure_shape

FORMAT = 1
FILE = "failure.json"
"""Its name, in the folder of the failure and in an archive."""

Phase = Literal["setup", "call", "teardown"]
JsonObject = dict[str, Any]  # Any: a JSON value of whatever kind


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptImage:
    """The image that a container was started from, enough to start it again."""

    name: str
    digest: str
    chain_id: str = ""
    layers: tuple[str, ...] = ()
    size: int = 0
    is_host: bool = False
    config: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptContainer:
    """One container as the failure found it.

    `manifest` and `layer` are digests in the store, empty when the files could not be kept. `gaps`
    says what could not be had, and why. `size` is the rw layer's, in bytes. `options` are those
    that the container was started with. `masked_env` names the variables whose value in `env` is
    not the true one, as it holds a secret. Every entry of `changes`, `commands`, `processes` and
    `mounts` is a JSON object; `since_test` tells of the first two whether they are of this test, or
    what a shared container had before.
    """

    name: str
    image: KeptImage
    user: str = ""
    workdir: str = ""
    hostname: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    options: JsonObject = field(default_factory=dict)
    limits: JsonObject = field(default_factory=dict)
    limits_hit: tuple[str, ...] = ()
    stats: JsonObject = field(default_factory=dict)
    changes: tuple[JsonObject, ...] = ()
    commands: tuple[JsonObject, ...] = ()
    processes: tuple[JsonObject, ...] = ()
    mounts: tuple[JsonObject, ...] = ()
    masked_env: tuple[str, ...] = ()
    manifest: str = ""
    layer: str = ""
    size: int = 0
    gaps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A kept failure: which test, when, what it said, and its containers, the main one first.

    `time` is ISO 8601 in UTC, `timings` are seconds by phase, `images` the default images of the
    session, `test_file` is the file of the test (`path` from rootdir, `sha256`), empty where it
    cannot be read. The files are in the store: as an OCI image by `manifest`, the change alone by
    `layer`. `folder` holds `failure.json`, and takes what hooks want to add; it is None for a
    failure that is in no store.
    """

    id: str
    nodeid: str
    when: Phase
    outcome: str
    time: str
    message: str
    rootdir: str
    containers: tuple[KeptContainer, ...]
    keep: str = "failed"
    images: tuple[str, ...] = ()
    timings: Mapping[str, float] = field(default_factory=dict)
    test_file: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not self.containers:
            raise ValueError("a failure has at least one container")

    @property
    def main(self) -> KeptContainer:
        """The container that the test asked for first."""
        return self.containers[0]

    @property
    def image(self) -> KeptImage:
        """The image of the main container."""
        return self.main.image

    @property
    def limits(self) -> JsonObject:
        """The limits of the main container."""
        return self.main.limits

    @property
    def stats(self) -> JsonObject:
        """The figures of the main container; None where the host had no figure."""
        return self.main.stats

    @property
    def changes(self) -> tuple[JsonObject, ...]:
        """What changed in the main container against its image, by path."""
        return self.main.changes

    @property
    def change_count(self) -> int:
        """How many paths changed in all containers."""
        return sum(len(kept.changes) for kept in self.containers)

    @property
    def commands(self) -> tuple[JsonObject, ...]:
        """The commands that were run in the main container, oldest first."""
        return self.main.commands

    @property
    def processes(self) -> tuple[JsonObject, ...]:
        """The processes of the main container at the moment of failure."""
        return self.main.processes

    @property
    def manifest(self) -> str:
        """The digest of the OCI manifest (base layers and rw layer) of the main container."""
        return self.main.manifest

    @property
    def layer(self) -> str:
        """The digest of the main container's rw layer."""
        return self.main.layer

    @property
    def size(self) -> int:
        """Bytes of all kept rw layers."""
        return sum(container.size for container in self.containers)

    def container(self, name: str) -> KeptContainer | None:
        """Return the container with this name, or None."""
        return next((kept for kept in self.containers if kept.name == name), None)

    def to_json(self) -> JsonObject:
        """Return the content of `failure.json`."""
        about = {name: getattr(self, name) for name in _OWN_KEYS}
        main, *others = map(_plain, self.containers)
        return {"format": FORMAT, **about, **main, "size": self.size, "containers": others}

    @classmethod
    def from_json(
        cls,
        data: Mapping[str, Any],  # Any: JSON as it was read
        *,
        folder: Path | None = None,
    ) -> Failure:
        """Make a failure from the content of `failure.json`; raises `ValueError` if it is none."""
        failure_shape.check(data, {})
        if data.get("format") != FORMAT:
            raise ValueError(f"format {data.get('format')!r}, this version reads {FORMAT}")
        failure_shape.check(data, failure_shape.FAILURE)
        failure_shape.check(data, failure_shape.CONTAINER)
        others = data["containers"]
        main = {**data, "size": data["size"] - sum(other["size"] for other in others)}
        containers = tuple(_container(entry) for entry in (main, *others))
        own = {key: value for key, value in _known(cls, data).items() if key in _OWN_KEYS}
        return cls(containers=containers, folder=folder, **own)


_NOT_OWN = ("containers", "folder")
_OWN_KEYS = tuple(each.name for each in dataclasses.fields(Failure) if each.name not in _NOT_OWN)


def _plain(kept: KeptContainer) -> JsonObject:
    """Return the fields without copying them, as `asdict` would, entry by entry."""
    fields = {each.name: getattr(kept, each.name) for each in dataclasses.fields(kept)}
    return {**fields, "image": dataclasses.asdict(kept.image)}


def _container(entry: Mapping[str, Any]) -> KeptContainer:  # Any: JSON as it was read
    image = _known(KeptImage, entry["image"])
    return KeptContainer(**{**_known(KeptContainer, entry), "image": KeptImage(**image)})


def _known(kind: type, entry: Mapping[str, Any]) -> JsonObject:  # Any: JSON as it was read
    """Pick the fields of a dataclass from a JSON object; JSON's arrays become tuples."""
    names = {each.name for each in dataclasses.fields(kind)}
    return {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in entry.items()
        if key in names
    }
