"""Turn what a container tells of itself into the data of a failure, without the user's secrets."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_rootfs.errors import RootfsError, one_line
from pytest_rootfs.failure_image import write_image
from pytest_rootfs.failure_record import JsonObject, KeptContainer, KeptImage

if TYPE_CHECKING:
    from pytest_rootfs.image.built import BuiltImage
    from pytest_rootfs.runtime.container import Container
    from pytest_rootfs.runtime.evidence import Evidence
    from pytest_rootfs.runtime.records import CommandRecord
    from pytest_rootfs.runtime.spec import ContainerOptions
    from pytest_rootfs.secret_values import SecretValues
    from pytest_rootfs.store.store import Store


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Viewpoint:
    """How evidence is looked at: since when the test runs (0: always), and what is hidden."""

    began_ns: int
    secrets: SecretValues


def look(container: Container, view: Viewpoint) -> KeptContainer:
    """Return the evidence of a container, live or dead but retained, without its files."""
    return _seen(container, container.gather(with_files=False), view)


def look_and_keep(container: Container, view: Viewpoint, store: Store) -> KeptContainer:
    """Return the evidence, and put the files into the store as an image.

    What is written is held by the open store, so no collection comes in between.
    """
    evidence = container.gather(with_files=True)
    kept, layer = _seen(container, evidence, view), evidence.files.layer
    if layer is None:
        return kept
    try:
        manifest = write_image(store, kept, layer, view.secrets)
    except (RootfsError, OSError) as error:
        return replace(kept, gaps=(*kept.gaps, f"files: {one_line(error)}"))
    return replace(kept, manifest=manifest, layer=layer.digest, size=layer.size)


def _seen(container: Container, evidence: Evidence, view: Viewpoint) -> KeptContainer:
    options, defaults, secrets = container.options, container.defaults, view.secrets
    env = secrets.hidden_env(defaults.env)
    return KeptContainer(
        name=container.name,
        image=_image(container.built, secrets),
        user=defaults.user,
        workdir=defaults.cwd,
        hostname=container.hostname,
        env=env,
        masked_env=tuple(sorted(name for name in env if env[name] != defaults.env[name])),
        options=_asked(options, secrets),
        limits={**dataclasses.asdict(container.limits), "timeout": options.timeout_s},
        limits_hit=tuple(map(secrets.hidden, evidence.limits_hit)),
        stats=evidence.stats,
        changes=tuple(_change(each, view) for each in evidence.files.changes),
        commands=tuple(_command(each, view) for each in container.commands),
        processes=tuple(map(secrets.hidden_json, evidence.processes)),
        mounts=evidence.mounts,
        gaps=tuple(map(secrets.hidden, evidence.gaps)),
    )


def _change(found: Mapping[str, Any], view: Viewpoint) -> JsonObject:  # Any: JSON values
    since_test = found["changed_ns"] >= view.began_ns
    return {
        **{name: value for name, value in found.items() if name != "changed_ns"},
        "since_test": since_test,
    }


def _command(record: CommandRecord, view: Viewpoint) -> JsonObject:
    secrets = view.secrets
    return {
        "argv": [secrets.hidden(word) for word in record.argv],
        "returncode": record.returncode,
        "duration_s": record.duration_s,
        "output_tail": secrets.hidden_tail(record.output_tail),
        "timed_out": record.timed_out,
        "started": record.started,
        "since_test": record.began_ns >= view.began_ns,
    }


def _asked(options: ContainerOptions, secrets: SecretValues) -> JsonObject:
    """Return the keywords that somebody set, as JSON has them."""
    asked = {key: value for key, value in dataclasses.asdict(options).items() if value is not None}
    if asked.get("env"):
        asked["env"] = secrets.hidden_env(asked["env"])
    return dict(json.loads(json.dumps(asked, default=str)))


def _image(built: BuiltImage, secrets: SecretValues) -> KeptImage:
    return KeptImage(
        name=built.name,
        digest=built.digest,
        chain_id=built.chain_id,
        layers=tuple(built.layers),
        size=built.size,
        is_host=built.is_host,
        config=_hidden_config(built.config.as_oci(), secrets),
    )


def _hidden_config(config: JsonObject, secrets: SecretValues) -> JsonObject:
    """Return the config of an image in which secrets have no value."""
    pairs: Sequence[str] = config.get("Env", ())
    env = secrets.hidden_env(dict(pair.partition("=")[::2] for pair in pairs))
    hidden: JsonObject = secrets.hidden_json(config)
    return {**hidden, "Env": [f"{name}={value}" for name, value in env.items()]} if env else hidden
