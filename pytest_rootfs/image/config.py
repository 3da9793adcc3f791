"""Hold what an image says about running it: environment, folder, user, entry point."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from pytest_rootfs.image.steps import ConfigStep

_OURS = ("Cmd", "Entrypoint", "Env", "Labels", "User", "WorkingDir")
_EMPTY: tuple[object, ...] = (None, False, "", [], {})


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """Carry the run-time defaults of an image, as an OCI image config names them.

    `env` holds `"K=V"` strings in the order in which they were first set. `others` are fields of
    a foreign image that mean nothing to us (`ExposedPorts`, `StopSignal` …), as JSON: images that
    are built upon it keep them.
    """

    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    others: tuple[tuple[str, str], ...] = ()

    def after(self, step: ConfigStep) -> ImageConfig:
        """Return the config as it is after one more step."""
        if step.key == "env":
            pairs = dict(entry.split("=", 1) for entry in self.env) | dict(step.pairs)
            return replace(self, env=tuple(f"{key}={value}" for key, value in pairs.items()))
        if step.key == "label":
            return replace(
                self, labels=tuple(sorted((dict(self.labels) | dict(step.pairs)).items()))
            )
        if step.key == "workdir":
            return replace(self, working_dir=step.words[0])
        if step.key == "user":
            return replace(self, user=step.words[0])
        # As in a Containerfile: arguments of the old entry point make no sense for the new one.
        return replace(self, entrypoint=step.words, cmd=())

    def as_oci(self) -> dict[str, object]:
        """Return the `config` object of an OCI image config; empty fields are left out."""
        fields: dict[str, object] = {
            "Cmd": list(self.cmd),
            "Entrypoint": list(self.entrypoint),
            "Env": list(self.env),
            "Labels": dict(self.labels),
            "User": self.user,
            "WorkingDir": self.working_dir,
        }
        others = {key: json.loads(text) for key, text in self.others}
        return {**others, **{key: value for key, value in fields.items() if value}}


def config_from_oci(fields: object) -> ImageConfig:
    """Read the `config` object of an OCI image config; raises `ValueError` naming a bad field."""
    if fields is None:
        return ImageConfig()
    if not isinstance(fields, dict):
        raise ValueError(f"config is {type(fields).__name__}, not an object")
    labels = fields.get("Labels") or {}
    if not isinstance(labels, dict) or not all(isinstance(item, str) for item in labels.values()):
        raise ValueError(f"Labels={labels!r} is not an object of strings")
    env = _strings(fields, "Env")
    if bad := next((entry for entry in env if "=" not in entry[1:]), None):
        raise ValueError(f"Env has {bad!r}, which is not NAME=VALUE")
    return ImageConfig(
        env=env,
        working_dir=_string(fields, "WorkingDir"),
        user=_string(fields, "User"),
        entrypoint=_strings(fields, "Entrypoint"),
        cmd=_strings(fields, "Cmd"),
        labels=tuple(sorted(labels.items())),
        others=tuple(
            (key, json.dumps(value, sort_keys=True))
            for key, value in sorted(fields.items())
            if key not in _OURS and value not in _EMPTY
        ),
    )


def _string(fields: dict[str, object], key: str) -> str:
    value = fields.get(key) or ""
    if not isinstance(value, str):
        raise ValueError(f"{key}={value!r} is not a string")
    return value


def _strings(fields: dict[str, object], key: str) -> tuple[str, ...]:
    value = fields.get(key) or []
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise ValueError(f"{key}={value!r} is not a list of strings")
    return tuple(value)
