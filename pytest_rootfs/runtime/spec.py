"""What a container is asked to be: frozen, checked once, trusted afterwards."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from pytest_rootfs import settings
from pytest_rootfs.kernel import capabilities

Network = Literal["none", "host"]
DEFAULT_TMPFS_BYTES = 256 << 20
SHM_BYTES = 64 << 20
_RESERVED = ("/proc", "/sys", "/dev")

MOUNTS_MAX = 240
"""Each is handed over as a descriptor, and SCM_RIGHTS takes 253 in a message (unix(7))."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A host file or folder shown in the container."""

    source: Path
    target: str
    is_readonly: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Tmpfs:
    """A temporary file system in the container; `size_bytes` bounds it."""

    target: str
    size_bytes: int = DEFAULT_TMPFS_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a container may use; None is no limit. Sizes in bytes, `cpus` in cores."""

    memory: int | None = None
    cpus: float | None = None
    pids: int | None = None
    disk: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerOptions:
    """The keywords of the mark, checked. A field that is None was not asked for."""

    user: str | None = None
    workdir: str | None = None
    env: Mapping[str, str] | None = None
    hostname: str | None = None
    memory: int | None = None
    cpus: float | None = None
    pids: int | None = None
    disk: int | None = None
    timeout: float | None = None
    network: Network | None = None
    mounts: tuple[Mount, ...] | None = None
    tmpfs: tuple[Tmpfs, ...] | None = None
    readonly: bool | None = None
    capabilities: tuple[str, ...] | None = None

    @classmethod
    def from_keywords(
        cls, keywords: Mapping[str, object], *, defaults: ContainerOptions | None = None
    ) -> ContainerOptions:
        """Check keywords as people write them; None means "not asked for".

        Raises TypeError for an unknown keyword, naming the closest one, and ValueError naming the
        key for a value that does not fit.
        """
        checked: dict[str, object] = {}
        for key, value in keywords.items():
            if key not in _CHECKS:
                known = [field.name for field in fields(cls)]
                near = difflib.get_close_matches(key, known, n=1)
                meant = f", did you mean {near[0]!r}?" if near else ""
                raise TypeError(f"unknown keyword {key!r}{meant} (accepted: {', '.join(known)})")
            if value is not None:
                checked[key] = _CHECKS[key](key, value)
        base = cls() if defaults is None else defaults
        if not checked:
            return base
        options = replace(base, **checked)  # type: ignore[arg-type]  # each was checked above
        _check_targets(options)
        return options

    @property
    def limits(self) -> Limits:
        """The limits in force: what was asked for over the defaults of every container."""
        return Limits(
            memory=self.memory,
            cpus=self.cpus,
            pids=settings.DEFAULT_PIDS if self.pids is None else self.pids,
            disk=settings.DEFAULT_DISK_BYTES if self.disk is None else self.disk,
        )

    @property
    def timeout_s(self) -> float:
        """The time that a command may take unless its call says otherwise."""
        return settings.DEFAULT_TIMEOUT_S if self.timeout is None else self.timeout


def check_limit(key: str, value: object) -> Any:  # Any: a number, int for all keys but cpus
    """Return a limit as the mark's keyword takes it; raises ValueError naming the key."""
    return _CHECKS[key](key, value)


def _check_targets(options: ContainerOptions) -> None:
    taken: set[str] = set()
    for key, found in (("tmpfs", options.tmpfs), ("mounts", options.mounts)):
        for item in found or ():
            if item.target in taken:
                raise ValueError(f"{key} has {item.target!r}, where something is mounted already")
            taken.add(item.target)


def _text(key: str, value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"{key}={value!r} is not a text, or it is empty or has a null character")
    return value


def _user(key: str, value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return str(value)
    return _text(key, value)


def _absolute_path(key: str, value: object) -> str:
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
        raise ValueError(f"{key}={value!r} is not an absolute path in the container")
    return path


def checked_hostname(key: str, value: object) -> str:
    """Return a host name as it is; raises ValueError naming the key for what is none."""
    name = _text(key, value)
    if not re.fullmatch(r"[A-Za-z0-9.-]{1,64}", name, re.ASCII):
        raise ValueError(f"{key}={value!r} is not a host name: up to 64 letters, digits, - and .")
    return name


def _env(key: str, value: object) -> Mapping[str, str]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{key}={value!r} is not a mapping of names to values")
    for name, text in value.items():
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise ValueError(f"{key} has {name!r}, which is not the name of a variable")
        if not isinstance(text, str) or "\0" in text:
            raise ValueError(f"{key} has {name}={text!r}: a value is a text")
    return dict(value)


def _network(key: str, value: object) -> Network:
    network: Network
    for network in ("none", "host"):
        if value == network:
            return network
    raise ValueError(f'{key}={value!r} is not a network: give "none" or "host"')


def _target(key: str, value: object) -> str:
    path = _absolute_path(key, value)
    normal = os.path.normpath(path)
    if normal in ("/", "//") or any(f"{normal}/".startswith(f"{top}/") for top in _RESERVED):
        raise ValueError(f"{key} has {path!r}: /, /proc, /sys and /dev cannot be mounted over")
    return normal


def _mounts(key: str, value: object) -> tuple[Mount, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValueError(f"{key}={value!r} is not a sequence of (source, target[, mode])")
    if len(value) > MOUNTS_MAX:
        raise ValueError(
            f"{key} has {len(value)} entries, more than the {MOUNTS_MAX} that a container can be "
            "given: mount a folder above them"
        )
    found = []
    for item in value:
        if isinstance(item, Mount):
            found.append(item)
            continue
        if isinstance(item, str) or not isinstance(item, Sequence) or len(item) not in (2, 3):
            raise ValueError(f'{key} has {item!r}, not (source, target) or (source, target, "ro")')
        mode = item[2] if len(item) == 3 else "ro"
        if mode not in ("ro", "rw"):
            raise ValueError(f'{key} has the mode {mode!r}: give "ro" or "rw"')
        if not isinstance(item[0], (str, os.PathLike)) or not os.fspath(item[0]):
            raise ValueError(f"{key} has the source {item[0]!r}, which is not a path")
        if "\0" in os.fsdecode(item[0]):
            raise ValueError(f"{key} has the source {item[0]!r}, which holds a null character")
        source = Path(item[0]).absolute()
        found.append(Mount(source=source, target=_target(key, item[1]), is_readonly=mode == "ro"))
    return tuple(found)


def _tmpfs(key: str, value: object) -> tuple[Tmpfs, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValueError(f"{key}={value!r} is not a sequence of paths or (path, size)")
    found = []
    for item in value:
        if isinstance(item, Tmpfs):
            found.append(item)
        elif isinstance(item, (str, os.PathLike)):
            found.append(Tmpfs(target=_target(key, item)))
        elif isinstance(item, Sequence) and len(item) == 2:
            size_bytes = settings.parse_size(key, item[1])
            found.append(Tmpfs(target=_target(key, item[0]), size_bytes=size_bytes))
        else:
            raise ValueError(f"{key} has {item!r}, not a path or (path, size)")
    return tuple(found)


def _flag(key: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{key}={value!r} is not True or False")
    return value


def _capabilities(key: str, value: object) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValueError(f"{key}={value!r} is not a sequence of names")
    names = [str(name).upper() for name in value]
    bare = [name.lstrip("+-").removeprefix("CAP_") for name in names]
    for name, shown in zip(bare, value, strict=True):
        if name not in capabilities.NAMES:
            near = difflib.get_close_matches(name, capabilities.NAMES, n=1)
            meant = f", did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{key} has {shown!r}, which is not a capability{meant}")
    signs = {name[0] for name in names if name[0] in "+-"}
    if not signs:
        return tuple(sorted(set(bare)))
    if any(name[0] not in "+-" for name in names):
        raise ValueError(f"{key}={value!r} mixes names with a sign and names without")
    kept = set(capabilities.DEFAULT)
    for name, signed in zip(bare, names, strict=True):
        kept = kept | {name} if signed[0] == "+" else kept - {name}
    return tuple(sorted(kept))


_CHECKS = {
    "user": _user,
    "workdir": _absolute_path,
    "env": _env,
    "hostname": checked_hostname,
    **settings.LIMIT_PARSERS,
    "network": _network,
    "mounts": _mounts,
    "tmpfs": _tmpfs,
    "readonly": _flag,
    "capabilities": _capabilities,
}
