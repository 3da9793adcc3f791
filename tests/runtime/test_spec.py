"""The keywords of the mark: what is accepted, and how what is not is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_rootfs.kernel import capabilities
from pytest_rootfs.runtime.spec import ContainerOptions, Limits, Mount, Tmpfs

parse = ContainerOptions.from_keywords


def test_nothing_is_asked_for_by_default() -> None:
    assert parse({}) == ContainerOptions()


def test_none_asks_for_nothing() -> None:
    assert parse({"memory": None, "user": None}) == ContainerOptions()


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("user", 0, "0"),
        ("user", "app:video", "app:video"),
        ("workdir", Path("/srv"), "/srv"),
        ("env", {"A": ""}, {"A": ""}),
        ("hostname", "web-1.test", "web-1.test"),
        ("memory", "64M", 64 << 20),
        ("memory", 4096, 4096),
        ("cpus", "0.5", 0.5),
        ("pids", 10, 10),
        ("disk", "1.5G", 3 << 29),
        ("timeout", 1, 1.0),
        ("network", "host", "host"),
        ("readonly", True, True),
        ("tmpfs", ["/a/../b"], (Tmpfs(target="/b"),)),
        ("tmpfs", [("/a", "1M")], (Tmpfs(target="/a", size_bytes=1 << 20),)),
        ("mounts", [("/h", "/c")], (Mount(source=Path("/h"), target="/c"),)),
        (
            "mounts",
            [(Path("/h"), "/c/", "rw")],
            (Mount(source=Path("/h"), target="/c", is_readonly=False),),
        ),
        ("capabilities", ["CAP_CHOWN", "kill", "KILL"], ("CHOWN", "KILL")),
        ("capabilities", [], ()),
    ],
)
def test_good_values(key: str, value: object, expected: object) -> None:
    assert getattr(parse({key: value}), key) == expected


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("user", ""),
        ("user", "a\0b"),
        ("user", 1.5),
        ("user", True),
        ("user", -1),
        ("workdir", "relative"),
        ("env", ["A=B"]),
        ("env", {"A": 1}),
        ("env", {"": "x"}),
        ("env", {"A=B": "x"}),
        ("mounts", [("/a\0b", "/x")]),
        ("hostname", "under_score"),
        ("hostname", "x" * 65),
        ("memory", 0),
        ("memory", -1),
        ("memory", "64 apples"),
        ("memory", True),
        ("cpus", 0),
        ("cpus", "nan"),
        ("cpus", float("inf")),
        ("pids", 0),
        ("pids", -1),
        ("pids", 1.5),
        ("pids", "many"),
        ("disk", "0M"),
        ("timeout", -1),
        ("network", "bridge"),
        ("readonly", "yes"),
        ("mounts", "/a:/b"),
        ("mounts", [("/a",)]),
        ("mounts", ["/a"]),
        ("mounts", [("/a", "b")]),
        ("mounts", [("/a", "/b", "rwx")]),
        ("mounts", [(1, "/b")]),
        ("mounts", [("", "/b")]),
        ("pids", 1 << 22),
        ("tmpfs", "/a"),
        ("tmpfs", ["relative"]),
        ("tmpfs", [("/a", 0)]),
        ("tmpfs", [1]),
        ("capabilities", "CHOWN"),
        ("capabilities", ["CHWON"]),
        ("capabilities", ["+CHOWN", "KILL"]),
    ],
)
def test_bad_values_name_the_key(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{key}"):
        parse({key: value})


@pytest.mark.parametrize(
    "target",
    ["/", "//", "/proc", "/proc/sys", "/sys/x", "/dev", "/dev/null", "/a/../proc", "/dev/"],
)
@pytest.mark.parametrize("key", ["mounts", "tmpfs"])
def test_system_folders_cannot_be_mounted_over(key: str, target: str) -> None:
    value = [("/tmp", target)] if key == "mounts" else [target]

    with pytest.raises(ValueError, match="cannot be mounted over"):
        parse({key: value})


def test_folders_with_similar_names_can(tmp_path: Path) -> None:
    assert parse({"tmpfs": ["/process", "/device"]}).tmpfs is not None


def test_unknown_keyword_names_the_closest() -> None:
    with pytest.raises(TypeError, match=r"'memroy', did you mean 'memory'\?.*accepted: user, "):
        parse({"memroy": "1M"})


def test_unlike_keyword_names_the_accepted_ones_only() -> None:
    with pytest.raises(TypeError) as refusal:
        parse({"zzz": 1})

    assert "did you mean" not in str(refusal.value)


def test_misspelt_capability_names_the_closest() -> None:
    with pytest.raises(ValueError, match=r"CHWON.*CHOWN"):
        parse({"capabilities": ["CAP_CHWON"]})


def test_signed_capabilities_change_the_default() -> None:
    found = parse({"capabilities": ["-CHOWN", "+SYS_PTRACE"]}).capabilities

    assert found is not None
    assert set(found) == set(capabilities.DEFAULT) - {"CHOWN"} | {"SYS_PTRACE"}


def test_keywords_win_over_defaults() -> None:
    defaults = parse({"memory": "1M", "pids": 5})

    assert parse({"memory": "2M"}, defaults=defaults) == parse({"memory": "2M", "pids": 5})


def test_limits_that_nobody_asks_for() -> None:
    assert parse({}).limits == Limits(memory=None, cpus=None, pids=1024, disk=1 << 30)
    assert parse({}).timeout_s == 300.0


def test_relative_source_starts_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)

    [mount] = parse({"mounts": [("x", "/x")]}).mounts or ()

    assert mount.source == tmp_path / "x"


@given(st.dictionaries(st.sampled_from(["memory", "pids", "user", "tmpfs", "env"]), st.text()))
def test_any_text_is_taken_or_refused_by_name(keywords: dict[str, object]) -> None:
    refusal = ""
    try:
        parse(keywords)
    except ValueError as error:
        refusal = str(error)

    assert not refusal or any(refusal.startswith(key) for key in keywords)
