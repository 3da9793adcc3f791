"""The options of the plugin as data, and the checked settings that they make.

One table feeds the command line, the ini file and `--help`. Values are strings until `Settings`
checks them; a bad one raises `ValueError` with one sentence that begins with the option (or ini
key) it came from. Nothing here touches the host.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

from pytest_rootfs.settings import LIMIT_PARSERS, SECRET_ENV, parse_count, parse_size

Keep = Literal["failed", "all", "none"]
LimitsPolicy = Literal["strict", "best-effort", "off"]
Unsupported = Literal["skip", "fail"]

KEEP = ("failed", "all", "none")
LIMITS = ("strict", "best-effort", "off")
PREPARE = ("0", "1")
UNSUPPORTED = ("skip", "fail")

DEFAULT_IMAGE = "minimal"
DEFAULT_KEEP_COUNT = 20
DEFAULT_KEEP_SIZE_BYTES = 2 << 30


# Plain classes: every pytest run makes them, and as dataclasses they would cost it 2 ms.


class Option:
    """One row of the table: `--rootfs-NAME` and the ini key `rootfs_NAME`."""

    __slots__ = ("about", "choices", "in_ini", "kind", "metavar", "name", "on_command_line")

    def __init__(
        self,
        name: str,
        about: str,
        *,
        metavar: str = "",
        choices: tuple[str, ...] = (),
        kind: Literal["value", "list", "paths", "flag"] = "value",
        on_command_line: bool = True,
        in_ini: bool = True,
    ) -> None:
        self.name = name
        self.about = about
        self.metavar = metavar
        self.choices = choices
        self.kind = kind
        self.on_command_line = on_command_line
        self.in_ini = in_ini

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
        "How many bytes of failures are kept in all, such as 500M "
        f"(default: {DEFAULT_KEEP_SIZE_BYTES >> 30}G)",
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
        "prepare",
        "1 to make the next container while a test runs, 0 not to (default: 1)",
        choices=PREPARE,
        on_command_line=False,
    ),
    Option(
        "secret_env",
        "Globs of environment variables whose values no report and no kept failure shows "
        f"(default: {' '.join(SECRET_ENV)})",
        kind="list",
        on_command_line=False,
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
    Option(
        "update_golden",
        "Write the golden files of changes().match_golden() instead of comparing with them",
        kind="flag",
        in_ini=False,
    ),
    Option(
        "from_failure",
        "Start the containers of the test that failed from its kept files; what "
        "`pytest-rootfs rerun ID --from-failure` uses",
        metavar="ID",
        in_ini=False,
    ),
)


class Sources:
    """Where values come from; `option` and `ini` return None, "" or [] for what nobody set."""

    __slots__ = ("environ", "ini", "ini_dir", "invocation_dir", "option", "rootdir")

    def __init__(
        self,
        *,
        option: Callable[[str], object],
        ini: Callable[[str], object],
        environ: Mapping[str, str],
        rootdir: Path,
        ini_dir: Path,
        invocation_dir: Path,
    ) -> None:
        self.option = option
        self.ini = ini
        self.environ = environ
        self.rootdir = rootdir
        self.ini_dir = ini_dir
        self.invocation_dir = invocation_dir


class Settings:
    """Every option, checked; the command line wins over the ini file. Never changed afterwards.

    Making one raises `ValueError` naming the option that holds a bad value. `defaults` are the
    mark's keywords that somebody set.
    """

    def __init__(self, sources: Sources) -> None:
        folders = sources.ini("rootfs_images")
        unsupported = "fail" if sources.environ.get("CI") else "skip"
        # cast: the choices are those of the Literal types
        self.images = _images(sources)
        self.image_folders: tuple[Path, ...] = tuple(folders if isinstance(folders, list) else ())
        self.image_folders = self.image_folders or (sources.rootdir / "images",)
        self.keep = cast("Keep", _choice(sources, "keep", KEEP, "failed"))
        self.keep_count = parse_count(*_value(sources, "keep_count", DEFAULT_KEEP_COUNT))
        self.keep_size_bytes = parse_size(*_value(sources, "keep_size", DEFAULT_KEEP_SIZE_BYTES))
        self.output = _folder(sources, "output")
        self.store = _folder(sources, "store") or default_store(sources.environ)
        self.limits = cast("LimitsPolicy", _choice(sources, "limits", LIMITS, "strict"))
        self.makes_ahead = _choice(sources, "prepare", PREPARE, "1") == "1"
        self.secret_env = _globs(sources, "secret_env", SECRET_ENV)
        self.unsupported = cast(
            "Unsupported", _choice(sources, "unsupported", UNSUPPORTED, unsupported)
        )
        self.shell = bool(sources.option("rootfs_shell"))
        self.update_golden = bool(sources.option("rootfs_update_golden"))
        self.from_failure = str(sources.option("rootfs_from_failure") or "")
        self.defaults: Mapping[str, object] = _defaults(sources)


def default_store(environ: Mapping[str, str]) -> Path:
    """Return the folder of the store when neither an option nor the ini file names one."""
    if chosen := environ.get("PYTEST_ROOTFS_STORE"):
        return Path(os.path.expanduser(chosen)).absolute()
    cache = environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache):  # the XDG specification: a relative path is to be ignored
        cache = os.path.expanduser("~/.cache")
    if not os.path.isabs(cache):  # no $HOME, no entry in /etc/passwd; Debian gives such users this
        cache = "/nonexistent/.cache"
    return Path(cache) / "pytest-rootfs"


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


def _globs(sources: Sources, name: str, default: tuple[str, ...]) -> tuple[str, ...]:
    """Return globs, separated by white space or one a line."""
    key, value = _value(sources, name, list(default))
    lines = [value] if isinstance(value, str) else value
    if not isinstance(lines, list) or not all(isinstance(each, str) for each in lines):
        raise ValueError(f"{key}={value!r} is not a glob, or a list of them")
    return tuple(glob for each in lines for glob in each.split())


def _folder(sources: Sources, name: str) -> Path | None:
    """Return a folder: relative to where pytest was called, or to the ini file that names it."""
    key, value = _value(sources, name, None)
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError(f"{key}={value!r} is not a folder")
    base = sources.invocation_dir if key.startswith("--") else sources.ini_dir
    return base / os.path.expanduser(value)


def _defaults(sources: Sources) -> dict[str, object]:
    parsed: dict[str, object] = {}
    for name, parse in LIMIT_PARSERS.items():
        key, value = _value(sources, name, None)
        if value is not None:
            parsed[name] = parse(key, value)
    return parsed
