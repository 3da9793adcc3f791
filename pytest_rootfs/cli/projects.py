"""Read what the command line needs of a project's pytest configuration, without pytest.

Only two keys: `rootfs_store` and `rootfs_images`. Files, tables and their order are those of
pytest (docs: Configuration, "Initialization: determining rootdir and configfile").
"""

from __future__ import annotations

import configparser
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FILES = (
    "pytest.toml",
    ".pytest.toml",
    "pytest.ini",
    ".pytest.ini",
    "pyproject.toml",
    "tox.ini",
    "setup.cfg",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """The folder of a project's configuration file and what it says."""

    root: Path
    store: Path | None = None
    image_folders: tuple[Path, ...] = ()


def find_project(start: Path) -> Project:
    """Return the project around a folder: the closest pytest configuration above it, or none."""
    for folder in (start, *start.parents):
        for name in _FILES:
            settings = _read(folder / name)
            if settings is not None:
                return _project(folder, settings)
    return _project(start, {})


def _project(root: Path, settings: Mapping[str, Any]) -> Project:  # Any: TOML values
    store = settings.get("rootfs_store")
    folders = settings.get("rootfs_images", ["images"])
    names = folders.split() if isinstance(folders, str) else [str(each) for each in folders]
    return Project(
        root=root,
        store=root / os.path.expanduser(str(store)) if store else None,
        image_folders=tuple(root / name for name in names),
    )


def _read(path: Path) -> Mapping[str, Any] | None:  # Any: TOML values
    """Return pytest's settings in a file, None if it has none or cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    if path.suffix == ".toml":
        return _read_toml(path.name, text)
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read_string(text)
    except configparser.Error:
        return None
    section = "tool:pytest" if path.name == "setup.cfg" else "pytest"
    if parser.has_section(section):
        return parser[section]
    return {} if path.name in ("pytest.ini", ".pytest.ini") else None


def _read_toml(name: str, text: str) -> Mapping[str, Any] | None:  # Any: TOML values
    if sys.version_info >= (3, 11):
        import tomllib  # noqa: PLC0415  not before 3.11
    else:
        import tomli as tomllib  # noqa: PLC0415  as above
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None
    if name != "pyproject.toml":
        found = data.get("pytest", {})
        return found if isinstance(found, dict) else {}
    table = data.get("tool", {}).get("pytest")
    if not isinstance(table, dict):
        return None
    options = table.get("ini_options")
    return options if isinstance(options, dict) else table
