"""`import-failure` refuses what is damaged, lies or is no failure, and then keeps nothing."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from failure_archives import RECORD, rewritten, with_record
from features import needs

Call = Callable[..., Any]  # Any: a Result of conftest.py

pytestmark = needs("userns")


def damaged(name: str, content: bytes) -> bytes:
    return content.replace(b"line fifty", b"line fifti")


def without_record(name: str, content: bytes) -> bytes | None:
    return None if name == RECORD else content


def without_manifest(name: str, content: bytes) -> bytes | None:
    return None if content.startswith(b'{"annotations"') else content


def without_layers(name: str, content: bytes) -> bytes | None:
    return None if name.startswith("blobs/") and not content.startswith(b"{") else content


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (damaged, "is damaged: its content has the digest sha256:"),
        (without_record, "it holds no failure.json\nhint: an image comes in by: "),
        (without_manifest, "is missing from the store"),
        (without_layers, "is missing from the store"),
    ],
)
def test_broken_archive_is_refused(
    change: Callable[[str, bytes], bytes | None],
    reason: str,
    archive: Path,
    call: Call,
    elsewhere: Path,
) -> None:
    path = rewritten(archive, change)

    result = call("import-failure", str(path))

    assert result.status == 1
    assert result.err.startswith(f"error: {path} is no archive of a failure\n")
    assert reason in result.err
    assert "\nhint: " in result.err
    assert call("failures", "--all").out == "no failures are kept here\n"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"id": "../../x"}, "has the id '../../x'"),
        ({"layer": f"sha256:{'0' * 64}"}, "is not that of its failure.json"),
        ({"format": 99}, "format 99, this version reads 1"),
        ({"image": None}, "image is 'None' (NoneType)"),
        ({"changes": [{"path": "/x"}]}, "changes[0].kind is missing"),
        ({"commands": [{"argv": 5}]}, "commands[0].argv is '5' (int)"),
        ({"stats": []}, "stats is '[]' (list)"),
        ({"options": {"mounts": "/etc"}}, "options.mounts is '/etc' (str)"),
        ({"time": 5}, "time is '5' (int)"),
        ({"time": "tomorrow"}, "its failure.json cannot be read"),
    ],
)
def test_record_that_lies_is_refused(
    values: dict[str, object], reason: str, archive: Path, call: Call, elsewhere: Path
) -> None:
    result = call("import-failure", str(with_record(archive, **values)))

    assert result.status == 1
    assert reason in result.err


@pytest.mark.parametrize("name", ["../escaped", "etc/passwd", "failure/../../escaped"])
def test_strange_entry_is_refused(name: str, archive: Path, call: Call, elsewhere: Path) -> None:
    with tarfile.open(archive, "a") as tar:
        tar.addfile(tarfile.TarInfo(name))

    result = call("import-failure", str(archive))

    assert result.status == 1
    assert name in result.err


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["failure/failure.json"], "entry failure/failure.json does not belong there"),
        (["failure/x", "failure/x"], "two entries want the name failure/x"),
        (["failure/x", "failure/x/y"], "two entries want the name failure/x/y"),
    ],
)
def test_added_file_cannot_replace_another(
    names: list[str], reason: str, archive: Path, call: Call, elsewhere: Path
) -> None:
    with tarfile.open(archive, "a") as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(name))

    result = call("import-failure", str(archive))

    assert (result.status, reason in result.err) == (1, True), result.err
    assert call("failures", "--all").out == "no failures are kept here\n"


def test_files_for_the_host_are_refused(archive: Path, call: Call, elsewhere: Path) -> None:
    def on_the_host(name: str, content: bytes) -> bytes:
        if name != RECORD:
            return content
        record = json.loads(content)
        record["image"]["is_host"] = True
        return json.dumps(record).encode()

    result = call("import-failure", str(rewritten(archive, on_the_host)))

    assert result.status == 1
    assert "its failure.json has files for the image " in result.err


@pytest.mark.parametrize("content", [b"", b"no archive", b"\0" * 1024, b"\x1f\x8b\x08" * 400])
def test_file_that_is_no_archive_is_refused(
    content: bytes, call: Call, elsewhere: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(content)

    result = call("import-failure", str(tmp_path / "file"))

    assert result.status == 1
    assert result.err.startswith(f"error: {tmp_path}/file is no archive of a failure\n")


def test_missing_file_is_not_found(call: Call, elsewhere: Path) -> None:
    assert call("import-failure", "nowhere.tar").status == 3
    assert call("import-failure", "/").status == 1
