"""A set of changes: a mapping that compares with a dict, and globs that thin it out."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_rootfs.changeset import Change, Changes
from pytest_rootfs.globs import translate

NAMES = st.text(st.characters(blacklist_characters="/*?[]\0", codec="utf-8"), min_size=1)


def change(path: str, kind: str = "added", type: str = "file") -> Change:  # noqa: A002  its name
    return Change(path=path, kind=kind, type=type)  # type: ignore[arg-type]  # literals, in effect


@pytest.fixture
def changes() -> Changes:
    return Changes([change("/z"), change("/a", "deleted"), change("/m", "modified", "dir")])


def test_sorted_by_path(changes: Changes) -> None:
    assert list(changes) == ["/a", "/m", "/z"]
    assert len(changes) == 3


def test_mapping_from_path_to_change(changes: Changes) -> None:
    assert changes["/m"] == change("/m", "modified", "dir")
    assert "/m" in changes and "/x" not in changes
    with pytest.raises(KeyError):
        changes["/x"]


def test_equal_to_a_plain_dict(changes: Changes) -> None:
    assert changes == {"/a": "deleted", "/m": "modified", "/z": "added"}
    assert changes != {"/a": "deleted", "/m": "modified"}
    assert changes != {"/a": "deleted", "/m": "modified", "/z": "modified"}


def test_none_equal_an_empty_dict() -> None:
    assert Changes([]) == {}
    assert not Changes([])


def test_equal_to_other_changes(changes: Changes) -> None:
    assert changes == Changes(reversed(list(changes.values())))
    assert changes != Changes([change("/a", "deleted")])


def test_not_equal_to_anything_else(changes: Changes) -> None:
    assert changes != ["/a", "/m", "/z"]


def test_lists_of_paths(changes: Changes) -> None:
    assert (changes.added, changes.modified, changes.deleted) == (["/z"], ["/m"], ["/a"])


def test_shown_as_a_dict(changes: Changes) -> None:
    assert repr(changes) == "Changes({'/a': 'deleted', '/m': 'modified', '/z': 'added'})"


def test_not_hashable(changes: Changes) -> None:
    with pytest.raises(TypeError):
        hash(changes)


def test_change_is_frozen() -> None:
    with pytest.raises(AttributeError):
        change("/x").path = "/y"  # type: ignore[misc]  # that is the test


def test_ignored_are_left_out(changes: Changes) -> None:
    assert changes.ignoring(["/a", "/[m-n]"]) == {"/z": "added"}
    assert changes.ignoring([]) == changes


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("/var/log/**", "/var/log/a", True),
        ("/var/log/**", "/var/log/a/b", True),
        ("/var/log/**", "/var/log", False),
        ("/var/log/**", "/var/logs", False),
        ("/var/*", "/var/log", True),
        ("/var/*", "/var/log/a", False),
        ("/var/*", "/var/.hidden", True),
        ("/**/x", "/x", True),
        ("/**/x", "/a/b/x", True),
        ("/**/x", "/a/yx", False),
        ("**/*.pyc", "/a/b.pyc", True),
        ("*.pyc", "/b.pyc", False),
        ("/?", "/a", True),
        ("/?", "/ab", False),
        ("/a?b", "/a/b", False),
        ("/[ab]", "/b", True),
        ("/[!ab]", "/c", True),
        ("/[!ab]", "/a", False),
        ("/a[!x]b", "/a/b", False),
        ("/[", "/[", True),
        ("/[]]", "/]", True),
        ("/[!]a]", "/b", True),
        ("/[!]a]", "/]", False),
        ("/[^a]", "/^", True),
        ("/[^a]", "/b", False),
        ("/a[+-9]b", "/a/b", False),
        ("/[z-a]", "/[z-a]", True),
        ("/[a-c]", "/b", True),
        ("/a.b", "/axb", False),
        ("/a\n*", "/a\nb", True),
        ("/(a|b)+$", "/(a|b)+$", True),
    ],
)
def test_globs_of_paths(pattern: str, path: str, expected: bool) -> None:  # noqa: FBT001  a case
    assert bool(re.fullmatch(translate(pattern), path)) is expected


@given(st.lists(NAMES, min_size=1, max_size=4))
def test_plain_path_matches_itself_only(names: list[str]) -> None:
    path = "/" + "/".join(names)

    assert re.fullmatch(translate(path), path)
    assert not re.fullmatch(translate(path), path + "x")


@given(st.text())
def test_any_pattern_is_a_regular_expression(pattern: str) -> None:
    re.compile(translate(pattern))


CHANGES = Changes(
    [
        Change(path="/etc/app.conf", kind="added", type="file"),
        Change(path="/etc/passwd", kind="modified", type="file"),
        Change(path="/var/old", kind="deleted", type="file"),
    ]
)


def test_assert_only_accepts_what_is_named() -> None:
    CHANGES.assert_only("/etc/*", deleted=["/var/**"])
    CHANGES.assert_only(added="/etc/app.conf", modified=["/etc/p*"], deleted=["/var/old"])
    Changes([]).assert_only()


def test_assert_only_lists_every_difference() -> None:
    with pytest.raises(AssertionError) as caught:
        CHANGES.assert_only("/opt/**", added=["/etc/passwd", "/etc/app.conf"])

    assert str(caught.value).splitlines() == [
        "the changes are not what is expected:",
        "unmatched   /opt/**",
        "unmatched   /etc/passwd (added)",
        "unexpected  /etc/passwd (modified)",
        "unexpected  /var/old (deleted)",
    ]


def test_golden_needs_a_container() -> None:
    with pytest.raises(ValueError, match="of no container"):
        CHANGES.match_golden("x")
