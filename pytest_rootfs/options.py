"""The options of the plugin as data, and the checked settings that they make.

One table feeds the command line, the ini file and `--help`. Values are strings until `Settings`
checks them; a bad one raises `ValueError` with one sentence that begins with the option (or ini
key) it came from. Nothing here touches the host.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, cast

from pytest_rootfs.settings import parse_count, parse_positive, parse_size

Keep = Literal["failed", "all", "none"]
LimitsPolicy = Literal["strict", "best-effort", "off"]
Unsupported = Literal["skip", "fail"]

KEEP = ("failed", "all", "none")
LIMITS = ("strict", "best-effort", "off")
UNSUPPORTED = ("skip", "fail")

DEFAULT_IMAGE = "minimal"
DEFAULT_KEEP_COUNT = 20
DEFAULT_KEEP_SIZE = "2G"


class Option(NamedTuple):
    """One row of the table: `--rootfs-NAME` and the ini key `rootfs_NAME`."""

    name: str
    help: str
    metavar: str = ""
    choices: tuple[str, ...] = ()
    kind: Literal["value", "list", "paths", "flag"] = "value"
    on_command_line: bool = True
    in_ini: bool = True

    @property
    def flag(self) -> str:
        """The spelling on the command line."""
        return f"--rootfs-{self.name.replace('_', '-')}"

    @property
    def key(self) -> str:
        """The spelling in the ini file, and the name of the command line's value."""
        return f"rootfs_{self.name}"

    @property
    def ini_type(self) -> str:
        """What pytest makes of the ini value; numbers stay strings, so that we word the error."""
        return {"list": "linelist", "paths": "paths"}.get(self.kind, "string")


# Help texts start with a capital letter and end without a full stop, as pytest's own do.
OPTIONS = (
    Option(
        "image",
        "Default image of container tests; given several times, every container test runs on each "
        f"(default: {DEFAULT_IMAGE})",
        metavar="REF",
        kind="list",
    ),
    Option(
        "images",
        "Folders with image recipes (default: images)",
        kind="paths",
        on_command_line=False,
    ),
    Option("keep", "Whose rw layers are kept (default: failed)", choices=KEEP),
    Option(
        "keep_count",
        f"How many failures are kept, the oldest go first (default: {DEFAULT_KEEP_COUNT})",
        on_command_line=False,
    ),
    Option(
        "keep_size",
        f"How many bytes of failures are kept in all, such as 500M (default: {DEFAULT_KEEP_SIZE})",
        on_command_line=False,
    ),
    Option(
        "output",
        "Copy kept failures into this folder too, each as an OCI layout",
        metavar="DIR",
    ),
    Option(
        "store",
        "Where images and failures are stored (default: $PYTEST_ROOTFS_STORE, else "
        "$XDG_CACHE_HOME/pytest-rootfs)",
        metavar="DIR",
    ),
    Option("memory", "Memory limit of containers whose mark sets none", metavar="SIZE"),
    Option("cpus", "Cpu limit, 0.5 is half a core", metavar="CORES"),
    Option("pids", "Limit on the number of processes (default: 1024)", metavar="COUNT"),
    Option("disk", "Limit on the size of the rw layer (default: 1G)", metavar="SIZE"),
    Option("timeout", "Time limit of each command (default: 300)", metavar="SECONDS"),
    Option(
        "limits",
        "What to do when this host cannot enforce a limit (default: strict)",
        choices=LIMITS,
    ),
    Option(
        "unsupported",
        "What to do when this host cannot run containers (default: skip, or fail when CI is set)",
        choices=UNSUPPORTED,
    ),
    Option(
        "shell",
        "Open a shell in the live container at each failure, before teardown",
        kind="flag",
        in_ini=False,
    ),
)


class Sources(NamedTuple):
    """Where values come from; `option` and `ini` return None, "" or [] for what nobody set."""

    option: Callable[[str], object]
    ini: Callable[[str], object]
    environ: Mapping[str, str]
    rootdir: Path
    ini_dir: Path
    invocation_dir: Path


class Settings(NamedTuple):
    """Every option, checked. `defaults` are the mark's keywords that somebody set.

    A tuple and no dataclass: every pytest run makes this class, and a dataclass costs it 0.7 ms.
    """

    images: tuple[str, ...]
    image_folders: tuple[Path, ...]
    keep: Keep
    keep_count: int
    keep_size_bytes: int
    output: Path | None
    store: Path
    limits: LimitsPolicy
    unsupported: Unsupported
    shell: bool
    defaults: Mapping[str, object]

    @classmethod
    def read(cls, sources: Sources) -> Settings:
        """Read all options; the command line wins over the ini file.

        Raises `ValueError` naming the option that holds a bad value.
        """
        folders = sources.ini("rootfs_images")
        in_ci = bool(sources.environ.get("CI"))
        # cast: the choices are those of the Literal types
        return cls(
            images=_images(sources),
            image_folders=tuple(folders if isinstance(folders, list) else ())
            or (sources.rootdir / "images",),
            keep=cast(Keep, _choice(sources, "keep", KEEP, "failed")),
            keep_count=parse_count(*_value(sources, "keep_count", DEFAULT_KEEP_COUNT)),
            keep_size_bytes=parse_size(*_value(sources, "keep_size", DEFAULT_KEEP_SIZE)),
            output=_folder(sources, "output"),
            store=_folder(sources, "store") or default_store(sources.environ),
            limits=cast(LimitsPolicy, _choice(sources, "limits", LIMITS, "strict")),
            unsupported=cast(
                Unsupported,
                _choice(sources, "unsupported", UNSUPPORTED, "fail" if in_ci else "skip"),
            ),
            shell=bool(sources.option("rootfs_shell")),
            defaults=_defaults(sources),
        )


def default_store(environ: Mapping[str, str]) -> Path:
    """Return the folder of the store when neither an option nor the ini file names one."""
    if chosen := environ.get("PYTEST_ROOTFS_STORE"):
        return Path(chosen).expanduser().absolute()
    cache = environ.get("XDG_CACHE_HOME", "")
    # The XDG base directory specification: a relative path is to be ignored.
    return (Path(cache) if os.path.isabs(cache) else Path.home() / ".cache") / "pytest-rootfs"


def _value(sources: Sources, name: str, default: object) -> tuple[str, object]:
    """Return how the user spelt an option, and its value."""
    given = sources.option(f"rootfs_{name}")
    if given is not None:
        return f"--rootfs-{name.replace('_', '-')}", given
    given = sources.ini(f"rootfs_{name}")
    return f"rootfs_{name}", default if given in (None, "", []) else given


def _choice(sources: Sources, name: str, choices: Sequence[str], default: str) -> str:
    key, value = _value(sources, name, default)
    if value not in choices:
        raise ValueError(f"{key}={value!r} is not one of {', '.join(choices)}")
    return str(value)


def _images(sources: Sources) -> tuple[str, ...]:
    key, value = _value(sources, "image", [DEFAULT_IMAGE])
    references = [value] if isinstance(value, str) else value
    if not isinstance(references, list) or not all(
        isinstance(each, str) and each.strip() for each in references
    ):
        raise ValueError(f"{key}={value!r} is not an image reference, or a list of them")
    return tuple(dict.fromkeys(each.strip() for each in references))


def _folder(sources: Sources, name: str) -> Path | None:
    """Return a folder: relative to where pytest was called, or to the ini file that names it."""
    key, value = _value(sources, name, None)
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError(f"{key}={value!r} is not a folder")
    base = sources.invocation_dir if key.startswith("--") else sources.ini_dir
    return base / Path(value).expanduser()


def _defaults(sources: Sources) -> dict[str, object]:
    parsed: dict[str, object] = {}
    for name in ("memory", "cpus", "pids", "disk", "timeout"):
        key, value = _value(sources, name, None)
        if value is not None:
            parsed[name] = _PARSERS[name](key, value)
    return parsed


_PARSERS: dict[str, Callable[[str, object], object]] = {
    "memory": parse_size,
    "cpus": lambda key, value: parse_positive(key, value, unit="cores"),
    "pids": parse_count,
    "disk": parse_size,
    "timeout": lambda key, value: parse_positive(key, value, unit="seconds"),
}
