"""Open the image that a reference such as `oci:DIR:TAG` names, whatever its format.

A path may itself hold colons: the longest one that exists is meant, and what follows is the name
of the image in it. `dir:` is whatever folder it is: an OCI image layout, or what skopeo writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pytest_rootfs.errors import ArchiveRejected, ImageError
from pytest_rootfs.store.bundles import Bundle, opened
from pytest_rootfs.store.docker_archives import read_docker_archive
from pytest_rootfs.store.foreign import ForeignImage
from pytest_rootfs.store.layouts import read_layout, read_skopeo_folder

SCHEMES = ("oci", "oci-archive", "docker-archive", "dir")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where an image lies; `wanted` is its name there, `@sha256:…`, or nothing."""

    scheme: str
    path: Path
    wanted: str = ""

    def __str__(self) -> str:
        return f"{self.scheme}:{self.path}"


def parse_source(reference: str) -> Source:
    """Return what a reference with a scheme means; a relative path starts where we are."""
    scheme, _, rest = reference.partition(":")
    if scheme not in SCHEMES or not rest:
        raise ImageError(
            f"{reference!r} is not the place of an image",
            hint=f"write SCHEME:PATH, with one of {', '.join(SCHEMES)}",
        )
    path, wanted = _split(rest)
    if scheme == "dir" and wanted:
        path, wanted = rest, ""  # there is only one image in such a folder
    return Source(scheme=scheme, path=Path(os.path.abspath(path)), wanted=wanted)


def find_source(text: str) -> Source:
    """Return what a path on the command line means, by looking at it; a scheme is taken as it is.

    Raises ImageNotFound when there is nothing, ArchiveRejected when it holds no image.
    """
    if text.partition(":")[0] in SCHEMES and not os.path.lexists(text):
        return parse_source(text)
    found, wanted = _split(text)
    path = Path(os.path.abspath(found))
    with opened(path, tmp=path.parent) as bundle:
        scheme = _scheme_of(bundle, is_folder=path.is_dir())
    if not scheme:
        raise ArchiveRejected(
            f"{path} holds no image: neither oci-layout nor manifest.json is in it",
            hint="give an OCI image layout, or what `docker save` or `skopeo copy` has written; "
            "a plain folder of files is an image as dir:PATH",
        )
    return Source(scheme=scheme, path=path, wanted=wanted)


@contextmanager
def open_source(source: Source, *, tmp: Path) -> Iterator[ForeignImage]:
    """Open an image; its documents are read and checked, its layers can be read meanwhile."""
    what = str(source)
    with opened(source.path, tmp=tmp) as bundle:
        is_folder = source.path.is_dir()
        if is_folder != (source.scheme in ("oci", "dir")):
            kind = "a folder" if is_folder else "a file"
            raise ArchiveRejected(
                f"{what} is {kind}",
                hint="oci: and dir: are folders, oci-archive: and docker-archive: are files",
            )
        if source.scheme == "docker-archive":
            yield read_docker_archive(bundle, wanted=source.wanted, what=what)
        elif source.scheme == "dir" and _scheme_of(bundle, is_folder=True) == "dir":
            yield read_skopeo_folder(bundle, what=what)
        else:
            yield read_layout(bundle, wanted=source.wanted, what=what)


def _scheme_of(bundle: Bundle, *, is_folder: bool) -> str:
    """Return how to read a folder or archive; Docker's own archives are OCI layouts as well."""
    if bundle.has("oci-layout"):
        return "oci" if is_folder else "oci-archive"
    if not bundle.has("manifest.json"):
        return ""
    return "dir" if is_folder else "docker-archive"


def _split(text: str) -> tuple[str, str]:
    """Part a path from the name after it, at the last mark before which something exists."""
    if os.path.lexists(text):
        return text, ""
    marks = [place for place, letter in enumerate(text) if letter in ":@"]
    for place in reversed(marks):
        if os.path.lexists(text[:place]):
            return text[:place], text[place:].removeprefix(":")
    end = marks[0] if marks else len(text)
    return text[:end], text[end:].removeprefix(":")
