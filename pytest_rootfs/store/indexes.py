"""Find one manifest through an OCI image index, or through indexes in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any  # decoded JSON only

from pytest_rootfs.errors import ArchiveRejected, ImageError, ImageNotFound
from pytest_rootfs.store import platforms
from pytest_rootfs.store.blobs import Descriptor
from pytest_rootfs.store.documents import parse_json
from pytest_rootfs.store.manifests import descriptor_of
from pytest_rootfs.store.media_types import INDEX_TYPES, MANIFEST_TYPES, REF_NAME

_DEPTH_MAX = 3
_MANIFESTS_MAX = 1000

Read = Callable[[Descriptor], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """What an index lists."""

    descriptor: Descriptor
    name: str
    platform: Mapping[str, Any] | None


def choose(index: bytes, *, wanted: str, what: str, read: Read) -> Descriptor:
    """Return the manifest that `wanted` means in an index: a name, `@sha256:…`, or the only one.

    Of several platforms it is this machine's. `read` gives verified documents. Raises
    ImageNotFound with what there is, ImageError when it could be several.
    """
    rows = _rows(index, what)
    if wanted.startswith("@"):
        found = [row for row in rows if row.descriptor.digest == wanted[1:]]
    else:
        found = [row for row in rows if not wanted or row.name == wanted]
    if not found:
        raise _not_found(rows, wanted, what)
    row = _fitting(found, what, is_named=bool(wanted))
    for _ in range(_DEPTH_MAX):
        if row.descriptor.media_type in MANIFEST_TYPES:
            return row.descriptor
        inner = f"index {row.descriptor.digest} of {what}"
        row = _fitting(_rows(read(row.descriptor), inner), inner, is_named=True)
    raise ArchiveRejected(f"{what} has indexes in indexes, more than {_DEPTH_MAX} deep")


def _rows(index: bytes, what: str) -> list[_Row]:
    """Return the images of an index; entries of other kinds mean nothing to us."""
    document = parse_json(index, what=what)
    folded = [member.lower() for member in document]
    listed = document.get("manifests")
    problem = ""
    if len(set(folded)) != len(folded) or "layers" in folded or "config" in folded:
        problem = "can be read as two kinds of document"
    elif document.get("schemaVersion") != 2:
        problem = f"has the schema version {document.get('schemaVersion')!r}, not 2"
    elif not isinstance(listed, list):
        problem = "lists no manifests"
    elif len(listed) > _MANIFESTS_MAX:
        problem = f"lists {len(listed)} manifests, the limit is {_MANIFESTS_MAX}"
    if problem:
        raise ArchiveRejected(f"{what} {problem}")
    rows = [_row(each, what) for each in listed or ()]
    kinds = (*MANIFEST_TYPES, *INDEX_TYPES)
    return [row for row in rows if row.descriptor.media_type in kinds]


def _row(value: object, what: str) -> _Row:
    descriptor = descriptor_of(value, what)
    fields = value if isinstance(value, dict) else {}
    annotations, platform = fields.get("annotations"), fields.get("platform")
    name = annotations.get(REF_NAME) if isinstance(annotations, dict) else None
    return _Row(
        descriptor=descriptor,
        name=name if isinstance(name, str) else "",
        platform=platform if isinstance(platform, dict) else None,
    )


def _fitting(rows: Sequence[_Row], what: str, *, is_named: bool) -> _Row:
    """Return the row for this machine; one that names no platform is for every machine."""
    best = max((_fitness(row) for row in rows), default=0)
    found = {row.descriptor.digest: row for row in rows if best and _fitness(row) == best}
    if not found:
        offered = sorted({platforms.shown(row.platform) for row in rows if row.platform})
        raise ImageNotFound(
            f"{what} has no image for {platforms.shown(platforms.platform())}",
            detail=f"it has {', '.join(offered) or 'none at all'}",
        )
    if len(found) > 1:
        names = sorted({row.name for row in found.values() if row.name and not is_named})
        listed = names or [f"@{digest}" for digest in sorted(found)]
        raise ImageError(
            f"{what} has {len(found)} images that could be meant",
            detail=f"it has {', '.join(listed)}",
            hint="name one of them: oci:PATH:NAME or oci:PATH@sha256:…",
        )
    (row,) = found.values()
    return row


def _fitness(row: _Row) -> int:
    return 1 if row.platform is None else platforms.fitness(row.platform)


def _not_found(rows: Sequence[_Row], wanted: str, what: str) -> ImageNotFound:
    names = sorted({row.name for row in rows if row.name})
    listed = names or [f"@{row.descriptor.digest}" for row in rows]
    return ImageNotFound(
        f"{what} has no image {wanted or 'at all'}",
        detail=f"it has {', '.join(listed)}" if rows else "",
    )
