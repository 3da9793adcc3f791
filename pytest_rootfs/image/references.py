"""Turn the name of an image into a description that starts at something real.

Order: a scheme, a recipe of the project, a tag of the store, a recipe that is shipped. A result
starts at `scratch:`, at `host:`, at a manifest of the store (`sha256:…`), or at an image outside of
it (`oci:/…`), with an absolute path.
"""

from __future__ import annotations

import difflib
import importlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from pytest_rootfs.errors import (
    ArchiveRejected,
    ImageError,
    ImageNotFound,
    RecipeError,
    RootfsError,
)
from pytest_rootfs.image.description import FOREIGN_SCHEMES, HOST, SCRATCH, Image
from pytest_rootfs.image.recipes import read_recipe
from pytest_rootfs.image.steps import CopyStep
from pytest_rootfs.settings import short_digest

MANIFEST = re.compile(r"sha256:[0-9a-f]{64}")
LATER_SCHEMES = ("registry",)
SCHEMES = ("host", "scratch", *FOREIGN_SCHEMES, *LATER_SCHEMES)
BUILT_IN = {"scratch": Image.scratch(), "host": Image.host()}
# Names of files below the folder, with room for the suffix; nothing hidden, nothing above it.
_RECIPE_NAME = re.compile(r"\w[\w.+-]{0,49}(/\w[\w.+-]{0,49}){0,9}")
# Parts joined by slashes, the first perhaps with a port, and at the end perhaps a version.
_TAG_NAME = re.compile(
    r"[A-Za-z0-9_][\w.+-]*(:\d+(?=/))?(/[A-Za-z0-9_][\w.+-]*)*(:\w[\w.+-]*)?", re.ASCII
)
_TAG_LENGTH = 200

Hook = Callable[[str], Image | None]


class Tags(Protocol):
    """The tags of a store, as far as resolving needs them."""

    def get(self, name: str) -> str | None:
        """Return the manifest digest of a tag."""

    def list(self) -> dict[str, str]:
        """Return all tags with their digests."""


class HasTags(Protocol):
    """A store that has tags."""

    @property
    def refs(self) -> Tags:
        """Return its tags."""


def resolve(
    reference: str,
    *,
    store: HasTags,
    folders: Sequence[Path],
    hook: Hook | None = None,
    base: Path | None = None,
) -> Image:
    """Return the image that a reference names, with all steps down to something real.

    A relative path (`oci:build/app`) starts at `base`, else at the current directory.

    Raises `ImageNotFound` with near matches and where was looked, `ImageError` for a source that
    this version cannot read, `RecipeError` for a bad recipe.
    """
    return _Resolver(store, tuple(folders), hook, base or Path()).resolve(reference)


def flatten(
    image: Image,
    *,
    store: HasTags,
    folders: Sequence[Path],
    hook: Hook | None = None,
    base: Path | None = None,
) -> Image:
    """Return an image that starts at something real, with the same steps at its end."""
    return _Resolver(store, tuple(folders), hook, base or Path()).flatten(image, ())


def answered(hook: Callable[..., object], reference: str) -> Image | None:
    """Return what a hook `pytest_rootfs_resolve_image` says; raises ImageError where it fails."""
    what = f"the image {reference!r}"
    try:
        found = hook(reference=reference)
    except RootfsError:
        raise
    except Exception as error:
        raise ImageError(
            f"the hook pytest_rootfs_resolve_image failed for {what}",
            detail=f"{type(error).__name__}: {error}",
        ) from error
    if found is None or isinstance(found, Image):
        return found
    if isinstance(found, str):
        return Image(found)
    raise ImageError(
        f"the hook pytest_rootfs_resolve_image returned {found!r} for {what}",
        hint="return an Image, the name of one, or None",
    )


def _is_real(image: Image) -> bool:
    """Tell whether an image starts at something that needs no further look-up."""
    real = image.reference in (SCRATCH, HOST) or bool(MANIFEST.fullmatch(image.reference))
    return real or is_foreign(image.reference)


def is_foreign(reference: str) -> bool:
    """Tell whether a reference leads to a folder or archive outside of the store."""
    scheme, _, rest = reference.partition(":")
    if scheme not in FOREIGN_SCHEMES or not rest.startswith("/"):
        return False
    return scheme != "dir" or _holds_image(rest)


@dataclass(frozen=True, slots=True)
class _Resolver:
    store: HasTags
    folders: tuple[Path, ...]
    hook: Hook | None
    base: Path
    asked: frozenset[str] = frozenset()
    """What the hook has answered on the way here: it is not asked for that again."""

    def resolve(self, reference: str, stack: tuple[Path, ...] = ()) -> Image:
        hook = self.hook if reference not in self.asked else None
        if hook and (image := hook(reference)) is not None:
            return replace(self, asked=self.asked | {reference}).flatten(image, stack)
        if MANIFEST.fullmatch(reference):
            return Image(reference, title=short_digest(reference))
        scheme, colon, rest = reference.partition(":")
        if colon and scheme in SCHEMES:
            return _from_scheme(scheme, rest, self.base)
        if recipe := self._recipe(reference, self.folders, stack):
            return self.flatten(read_recipe(recipe), (*stack, recipe))
        if digest := self._tagged(reference):
            return Image(digest, title=reference)
        if recipe := self._recipe(reference, (shipped_folder(),), stack):
            return self.flatten(read_recipe(recipe), (*stack, recipe))
        if reference in BUILT_IN:
            return BUILT_IN[reference]
        raise self._not_found(reference, stack)

    def flatten(self, image: Image, stack: tuple[Path, ...]) -> Image:
        if _is_real(image):
            return image
        below = self.resolve(image.reference, stack)
        return Image(
            below.reference,
            steps=below.steps + image.steps,
            title=image.title or below.title,
            titled_steps=len(below.steps) + image.titled_steps,
        )

    def _recipe(
        self, reference: str, folders: Iterable[Path], stack: tuple[Path, ...]
    ) -> Path | None:
        """Return a recipe's file, but none that is being read: `minimal` may be from `minimal`."""
        if not _RECIPE_NAME.fullmatch(reference):
            return None
        paths = (folder / f"{reference}.toml" for folder in folders)
        return next((path for path in paths if path not in stack and path.is_file()), None)

    def _tagged(self, reference: str) -> str | None:
        try:
            return self.store.refs.get(reference)
        except ArchiveRejected:  # no tag can have this name
            return None

    def _not_found(self, reference: str, stack: tuple[Path, ...]) -> ImageError:
        circle = [path for path in stack if path.name == f"{reference}.toml"]
        if circle:
            chain = " → ".join(path.stem for path in (*stack[stack.index(circle[0]) :], circle[0]))
            return RecipeError(
                f"recipe {circle[0]}: recipes refer to each other in a circle: {chain}"
            )
        names = sorted({*recipe_names(self.folders), *self.store.refs.list(), *_shipped_names()})
        near = difflib.get_close_matches(reference, names, n=3)
        looked = [*(f"{folder}/*.toml" for folder in self.folders), "tags of the store", "shipped"]
        known = f"known here: {', '.join(names)}"
        asked = f" (asked for by recipe {stack[-1]})" if stack else ""
        return ImageNotFound(
            f"no image is named {reference!r}{asked}",
            detail=f"looked in: {', '.join(looked)}",
            hint=f"did you mean {' or '.join(map(repr, near))}? {known}" if near else known,
        )


def recipe_names(folders: Iterable[Path]) -> list[str]:
    """Return the names of the recipes in folders, sorted."""
    return sorted(
        str(path.relative_to(folder).with_suffix(""))
        for folder in folders
        if folder.is_dir()
        for path in folder.rglob("*.toml")
        if path.is_file()
    )


def shipped_folder() -> Path:
    """Return the folder of the recipes that come with the package."""
    images = importlib.import_module("pytest_rootfs.images")
    return Path(images.__path__[0])


def _shipped_names() -> set[str]:
    return {*recipe_names([shipped_folder()]), *BUILT_IN}


def _from_scheme(scheme: str, rest: str, base: Path) -> Image:
    if scheme in ("host", "scratch"):
        if rest:
            raise ImageError(
                f"image {scheme}:{rest} does not exist: nothing can follow `{scheme}:`",
                hint=f"write {scheme}: alone, and .copy() what you need",
            )
        return BUILT_IN[scheme]
    if scheme in FOREIGN_SCHEMES:
        return _from_path(scheme, rest, base)
    raise ImageError(
        f"image {scheme}:{rest}: this version cannot read images from `{scheme}:` yet",
        hint="use minimal, busybox, host or scratch, or a recipe of your own on top of one of them",
    )


def _from_path(scheme: str, rest: str, base: Path) -> Image:
    """Return the image at a path."""
    if not rest:
        raise ImageError(f"image {scheme}: has no path", hint=f"write {scheme}:PATH")
    path, title = os.path.abspath(os.path.join(base, rest)), f"{scheme}:{rest}"
    if scheme == "dir" and not _holds_image(path):
        tree = CopyStep(source=path, target="/", keeps_modes=True)
        return Image(SCRATCH, steps=(tree,), title=title, titled_steps=1)
    return Image(f"{scheme}:{path}", title=title)


def _holds_image(folder: str) -> bool:
    """Tell whether a folder is an image's parts, and not the files of its root."""
    names = ("oci-layout",), ("version", "manifest.json")
    return any(all(os.path.isfile(os.path.join(folder, x)) for x in each) for each in names)


def check_tag(name: str) -> None:
    """Refuse a name for a tag that is no name, or would be read as the kind of a reference."""
    if not isinstance(name, str) or len(name) > _TAG_LENGTH or not _TAG_NAME.fullmatch(name):
        raise ImageError(
            f"{name!r} cannot be a tag: it is not a name of letters, digits and . _ + -",
            hint="choose a name such as app, team/app or app:1.0",
        )
    scheme = name.partition(":")[0] if ":" in name else ""
    if scheme in ("sha256", *SCHEMES):
        raise ImageError(
            f"{name!r} cannot be a tag: `{scheme}:` is read as the kind of a reference",
            hint="choose a name such as app or app:1",
        )
