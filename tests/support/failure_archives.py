"""Archives of failures, written anew with something in them changed."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

RECORD = "failure.json"


def rewritten(archive: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    """Write an archive anew, each file as a function says; None leaves it out."""
    target = archive.with_name("rewritten.tar")
    with (
        tarfile.open(archive) as source,
        tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as out,
    ):
        for member in source:
            file = source.extractfile(member)
            content = change(member.name, file.read()) if file else b""
            if content is not None:
                member.size = len(content)
                out.addfile(member, io.BytesIO(content))
    return target


def with_record(archive: Path, **values: object) -> Path:
    """Change keys of failure.json in an archive."""

    def change(name: str, content: bytes) -> bytes:
        if name != RECORD:
            return content
        return json.dumps({**json.loads(content), **values}).encode()

    return rewritten(archive, change)
