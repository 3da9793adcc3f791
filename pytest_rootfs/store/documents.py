"""Write small files so that readers see the old or the new one; write and read JSON strictly."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn  # Any: decoded JSON only

from pytest_rootfs.errors import ArchiveRejected
from pytest_rootfs.store.blobs import Descriptor
from pytest_rootfs.store.locks import claim_file
from pytest_rootfs.store.media_types import INDEX_TYPE, REF_NAME

JSON_BYTES_MAX = 4 << 20


def write_atomically(path: Path, content: bytes, *, tmp: Path) -> None:
    """Replace `path` by a synced file with `content`, made in the folder `tmp` of the same disk.

    The temporary file is locked, so no collection takes it away meanwhile.
    """
    written, fd = claim_file(tmp, prefix=".tmp-")
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fdatasync(fd)
            written.rename(path)
    except BaseException:
        written.unlink(missing_ok=True)
        raise


def canonical_json(value: object) -> bytes:
    """Return the one spelling that our manifests and configs have (RFC 8785 for our types)."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def index_of(images: Iterable[tuple[str, Descriptor]]) -> bytes:
    """Return the index of an OCI image layout: images by their names, which may be empty."""
    rows = []
    for name, manifest in images:
        row = manifest.as_json()
        if name:
            row["annotations"] = {REF_NAME: name}
        rows.append(row)
    return canonical_json({"manifests": rows, "mediaType": INDEX_TYPE, "schemaVersion": 2})


def parse_json(content: bytes, *, what: str) -> dict[str, Any]:
    """Return the JSON object in `content`; refuse what two readers could read differently."""
    if len(content) > JSON_BYTES_MAX:
        raise ArchiveRejected(f"{what} has {len(content)} bytes, the limit is {JSON_BYTES_MAX}")
    try:
        value = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_without_duplicates,
            parse_constant=_refuse_constant,
        )
        if b"\\u" in content:  # half a surrogate pair is no text, and could not be written again
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ArchiveRejected(f"{what} is not valid JSON", detail=str(error)) from error
    if not isinstance(value, dict):
        raise ArchiveRejected(f"{what} is not a JSON object")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has the same member twice")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
