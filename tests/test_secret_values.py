"""Values of secret environment variables are in no text, however they are written."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable

import pytest
from _pytest._io.saferepr import saferepr  # how pytest shortens values
from hypothesis import given
from hypothesis import strategies as st

from pytest_rootfs.secret_values import SecretValues

ODD = 'it\'s a "secret"\n\\ and é'
LONG = "".join(f"{number * number:06d}" for number in range(100))


def knowing(*values: str) -> SecretValues:
    secrets = SecretValues()
    secrets.note({f"TOKEN_{number}": value for number, value in enumerate(values)})
    return secrets


@pytest.mark.parametrize(
    ("name", "is_secret"),
    [
        ("GITHUB_TOKEN", True),
        ("db_password", True),
        ("SECRETS", True),
        ("API_KEY", True),
        ("AWS_CREDENTIALS", True),
        ("KEYBOARD", False),
        ("PATH", False),
    ],
)
def test_names_are_matched_in_any_case(name: str, *, is_secret: bool) -> None:
    assert SecretValues().is_secret(name) == is_secret


def test_users_globs_replace_the_default() -> None:
    secrets = SecretValues(["DB_*"])

    assert [secrets.is_secret(name) for name in ("DB_URL", "TOKEN")] == [True, False]


@pytest.mark.parametrize(
    "write", [str, repr, json.dumps, shlex.quote, ascii, lambda text: repr([repr(text)])]
)
def test_value_is_hidden_however_written(write: Callable[[str], str]) -> None:
    shown = knowing(ODD).hidden(f"x {write(ODD)} y")

    assert "secret" not in shown
    assert "***" in shown
    assert (shown[:2], shown[-2:]) == ("x ", " y")


def test_longest_value_is_hidden_first() -> None:
    assert knowing("abcd", "abcdef").hidden("abcdef abcd") == "*** ***"


def test_short_value_is_hidden_in_the_environment_only() -> None:
    secrets = knowing("abc")

    assert secrets.hidden("abc") == "abc"
    assert secrets.hidden_env({"TOKEN_0": "abc", "A": "abc"}) == {"TOKEN_0": "***", "A": "abc"}


def test_other_variable_with_a_value_is_hidden() -> None:
    env = {"TOKEN": "hunter22", "URL": "http://me:hunter22@host", "EMPTY_TOKEN": ""}
    secrets = SecretValues()
    secrets.note(env)

    assert secrets.hidden_env(env) == {
        "TOKEN": "***",
        "URL": "http://me:***@host",
        "EMPTY_TOKEN": "",
    }


@pytest.mark.parametrize("cut", [lambda x: x[:300] + "...", lambda x: "..." + x[-300:]])
def test_piece_of_a_long_value_is_hidden(cut: Callable[[str], str]) -> None:
    shown = knowing(LONG).hidden(f"assert '{cut(LONG)}'")

    assert shown.replace("...", "") == "assert '***'"


@pytest.mark.parametrize(
    "value", ["tok-ABCDEFGH-1234567890-longer", "it's\n a long 'secret' value"]
)
def test_ends_that_pytest_leaves_are_hidden(value: str) -> None:
    text = f"assert {saferepr(value, maxsize=24)} == 'x'"
    assert "..." in text

    shown = knowing(value).hidden(text)

    assert re.sub(r"\*+", "*", shown) in ("assert '*...*' == 'x'", "assert \"*...*\" == 'x'")


def test_ends_beside_what_run_leaves_out_are_hidden() -> None:
    output = "see hunter22\n[... 9 bytes left out ...]\nhunter23 ..."

    shown = knowing("hunter22-and-23", "pass-hunter23").hidden(output)

    assert shown == "see ***\n[... 9 bytes left out ...]\n*** ..."


def test_word_beside_an_ellipsis_stays() -> None:
    assert knowing("collecting-secrets").hidden("collected 3 items ...") == "collected 3 items ..."


def test_tail_that_begins_inside_a_value_is_hidden() -> None:
    assert knowing("hunter22").hidden_tail("ter22 and more") == "*** and more"


@given(st.lists(st.text(min_size=4, max_size=60), min_size=1, max_size=4), st.text(), st.text())
def test_no_value_ever_remains(values: list[str], before: str, after: str) -> None:
    secrets = knowing(*values)

    shown = secrets.hidden(before + after.join(values))

    assert not any(value in shown.replace("***", "\0") for value in values if "\0" not in value)


def test_json_is_hidden_inside_and_keeps_its_names() -> None:
    found = knowing("hunter22").hidden_json({"hunter22": ["hunter22", 1, None, {"a": "hunter22"}]})

    assert found == {"hunter22": ["***", 1, None, {"a": "***"}]}
