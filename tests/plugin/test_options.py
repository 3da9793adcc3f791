"""Options and ini keys: what they mean, who wins, and what a bad value says."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from pytest_rootfs.options import OPTIONS, Settings, Sources, default_store

ROOT = Path("/project")


def read(
    options: Mapping[str, object] | None = None,
    ini: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    sources = Sources(
        option=(options or {}).get,
        ini=(ini or {}).get,
        environ=environ or {"XDG_CACHE_HOME": "/cache"},
        rootdir=ROOT,
        ini_dir=ROOT / "config",
        invocation_dir=ROOT / "here",
    )
    return Settings(sources)


def test_defaults_are_those_of_the_interface() -> None:
    settings = read()

    assert vars(settings) == {
        "images": ("minimal",),
        "image_folders": (ROOT / "images",),
        "keep": "failed",
        "makes_ahead": True,
        "keep_count": 20,
        "keep_size_bytes": 2 << 30,
        "output": None,
        "store": Path("/cache/pytest-rootfs"),
        "limits": "strict",
        "unsupported": "skip",
        "shell": False,
        "secret_env": ("*TOKEN*", "*PASSWORD*", "*SECRET*", "*_KEY", "*CREDENTIAL*"),
        "update_golden": False,
        "from_failure": "",
        "defaults": {},
    }


def test_command_line_beats_ini() -> None:
    settings = read({"rootfs_memory": "64M"}, {"rootfs_memory": "1G", "rootfs_pids": "7"})

    assert settings.defaults == {"memory": 64 << 20, "pids": 7}


def test_several_images_keep_their_order() -> None:
    assert read({"rootfs_image": ["b", "a", "b"]}).images == ("b", "a")


def test_ini_gives_several_images() -> None:
    assert read(ini={"rootfs_image": ["minimal", "busybox"]}).images == ("minimal", "busybox")


def test_empty_ini_value_counts_as_unset() -> None:
    settings = read(ini={"rootfs_memory": "", "rootfs_image": [], "rootfs_store": ""})

    assert (settings.defaults, settings.images) == ({}, ("minimal",))


def test_unsupported_fails_in_ci() -> None:
    assert read(environ={"CI": "1"}).unsupported == "fail"
    assert read(environ={"CI": ""}).unsupported == "skip"
    assert read({"rootfs_unsupported": "skip"}, environ={"CI": "1"}).unsupported == "skip"


def test_folder_is_relative_to_who_names_it() -> None:
    assert read({"rootfs_store": "store"}).store == ROOT / "here" / "store"
    assert read(ini={"rootfs_store": "store"}).store == ROOT / "config" / "store"


def test_store_defaults_to_environment(tmp_path: Path) -> None:
    assert default_store({"PYTEST_ROOTFS_STORE": "/s", "XDG_CACHE_HOME": "/c"}) == Path("/s")
    assert default_store({"XDG_CACHE_HOME": "/c"}) == Path("/c/pytest-rootfs")
    # XDG: "if relative, ignore it"
    home_cache = Path.home() / ".cache" / "pytest-rootfs"
    assert default_store({"XDG_CACHE_HOME": "c"}) == default_store({}) == home_cache


def test_user_without_a_home_needs_no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)

    assert default_store({}) == Path("/nonexistent/.cache/pytest-rootfs")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("memory", "0", "at least 1 byte"),
        ("memory", "-5M", "is not a size"),
        ("disk", "5Q", "is not a size"),
        ("cpus", "nan", "number of cores above zero"),
        ("cpus", "0", "number of cores above zero"),
        ("pids", "1.5", "is not a count"),
        ("pids", "0", "is not a count"),
        ("timeout", "inf", "number of seconds above zero"),
        ("limits", "lax", "strict, best-effort, off"),
        ("keep", "some", "failed, all, none"),
        ("unsupported", "xfail", "skip, fail"),
        ("image", [""], "not an image reference"),
        ("output", "", "not a folder"),
        ("store", "a\0b", "not a folder"),
    ],
)
def test_bad_value_names_the_option(name: str, value: object, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        read({f"rootfs_{name}": value})

    assert str(caught.value).startswith(f"--rootfs-{name}=")


@pytest.mark.parametrize(
    ("key", "value"), [("rootfs_keep_count", "0"), ("rootfs_keep_size", "x"), ("rootfs_cpus", "x")]
)
def test_bad_ini_value_names_the_key(key: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"^{key}='?{value}"):
        read(ini={key: value})


def test_bad_option_is_a_usage_error(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test(): pass")

    result = pytester.runpytest_subprocess("--rootfs-memory=lots")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --rootfs-memory='lots' is not a size: *"])


@pytest.mark.parametrize("value", ["0", '"nought"'])
def test_bad_ini_value_is_a_usage_error(pytester: pytest.Pytester, value: str) -> None:
    pytester.makepyprojecttoml(f"[tool.pytest.ini_options]\nrootfs_pids = {value}")

    result = pytester.runpytest_subprocess()

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *rootfs_pids*"])


def test_override_reaches_an_ini_key(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("-o", "rootfs_keep_count=none")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: rootfs_keep_count='none' is not a count: *"])


def test_unknown_choice_lists_the_choices(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("--rootfs-limits=lax")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--rootfs-limits: invalid choice: 'lax'*best-effort*"])


def test_help_shows_every_option_in_one_group(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("--help")

    group = result.stdout.str().partition("container rootfs (pytest-rootfs):")[2].split("\n\n")[0]
    assert [flag.flag for flag in OPTIONS if flag.on_command_line and flag.flag not in group] == []
    ini = result.stdout.str().partition("\n[pytest] ")[2]
    assert [each.key for each in OPTIONS if each.in_ini and f"{each.key} (" not in ini] == []
