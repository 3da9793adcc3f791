"""The text of frames is JSON, as the standard library writes and reads it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pytest_rootfs
from pytest_rootfs.runtime import frame_text

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
FOLDER = str(Path(pytest_rootfs.__file__).parents[1])
HEAVY = {"collections", "contextlib", "enum", "functools", "json", "re", "selectors"}
HEAVY |= {"signal", "socket", "subprocess", "typing"}


@given(st.dictionaries(st.text(), VALUES, max_size=5))
def test_text_is_what_json_writes_and_reads(message: dict[str, object]) -> None:
    text = frame_text.encode(message)

    assert text == json.dumps(message, separators=(",", ":"))
    assert frame_text.decode(text) == message


def test_lone_surrogates_come_through() -> None:
    assert frame_text.decode(frame_text.encode({"path": "a\udcff"})) == {"path": "a\udcff"}


@pytest.mark.parametrize("text", ["", "{", '{"a":}', "{} {}", '{"a":1}\n', "nul", '{"a":"\n"}'])
def test_text_that_is_not_one_value_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  of several classes, with words of json's own
        frame_text.decode(text)


def test_value_without_text_is_refused() -> None:
    with pytest.raises(TypeError, match="bytes cannot be sent"):
        frame_text.encode({"a": b""})


def test_refusal_needs_no_import() -> None:
    program = (
        f"import sys; sys.path.insert(0, {FOLDER!r})\n"
        "from pytest_rootfs.runtime import frame_text\n"
        "sys.path.clear(); sys.meta_path.clear()\n"
        "try: frame_text.decode('{')\n"
        "except ValueError as error: print(error)"
    )

    done = subprocess.run(
        [sys.executable, "-I", "-S", "-W", "ignore", "-c", program],
        check=True,
        capture_output=True,
        text=True,
    )

    assert done.stdout == "not JSON\n"


def test_processes_that_inits_come_from_import_little() -> None:
    """Each of these modules is pages that every birth copies and every death frees."""
    program = (
        f"import sys; sys.path.insert(0, {FOLDER!r})\n"
        "import pytest_rootfs.runtime.warden, pytest_rootfs.runtime.spawner\n"
        f"print(sorted({HEAVY} & set(sys.modules)))"
    )

    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], check=True, capture_output=True, text=True
    )

    assert done.stdout == "[]\n"
