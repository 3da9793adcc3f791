"""Build images: one layer a step, each found again by what decides it.

A step's key is made of the layers below it and of the step's content, so equal content gives the
same layer wherever and by whomever it is built. Only one process builds a step; the others wait
and find it done. Content steps are written by this process; commands run in a container.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from pytest_rootfs.bases import find_base
from pytest_rootfs.content_layers import ContentLayers
from pytest_rootfs.errors import BuildFailed, ImageError, RecipeError
from pytest_rootfs.image import Image
from pytest_rootfs.image.built import BuiltImage, chain_id
from pytest_rootfs.image.config import ImageConfig
from pytest_rootfs.image.description import HOST, SCRATCH
from pytest_rootfs.image.gathering import (
    MEMORY_OF_YOUNG,
    Gatherer,
    digest_if_unchanged,
    memory_of,
    reads_host,
)
from pytest_rootfs.image.placing import place
from pytest_rootfs.image.references import Hook, check_tag, flatten
from pytest_rootfs.image.steps import ConfigStep, ContentStep, RunStep, Step
from pytest_rootfs.settings import SOURCE_DATE_EPOCH
from pytest_rootfs.store import oci
from pytest_rootfs.store.blobs import Descriptor
from pytest_rootfs.store.caches import key_of
from pytest_rootfs.store.probes import repair_of
from pytest_rootfs.store.store import Store
from pytest_rootfs.store.tar_writer import ASSEMBLY

KEY_FORMAT = 1

__all__ = ["BuildSession", "Builder", "BuiltImage"]

_log = logging.getLogger(__name__)


class BuildSession(Protocol):
    """What the builder needs of a running session; implemented by the engine."""

    @property
    def idmap(self) -> str:
        """Name the id map under which layers are unpacked."""

    def unpack(self, layers: Sequence[str], *, is_host: bool) -> None:
        """Unpack an image's layers, bottom first, unless they are."""

    def run_step(self, base: BuiltImage, step: RunStep) -> str | None:
        """Run a step on an image; return the diffID of its layer, `None` if nothing changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Progress:
    """The image after some of its steps."""

    layers: tuple[Descriptor, ...] = ()
    config: ImageConfig = field(default_factory=ImageConfig)
    history: tuple[Mapping[str, object], ...] = ()
    is_host: bool = False
    manifest: str = ""
    """The manifest that says exactly this, if there is one: of an image as it was imported."""

    @property
    def diff_ids(self) -> tuple[str, ...]:
        return tuple(layer.digest for layer in self.layers)

    @property
    def chain_id(self) -> str:
        return chain_id(self.diff_ids, is_host=self.is_host)

    def with_layer(self, step: Step, layer: Descriptor | None) -> _Progress:
        layers = self.layers if layer is None else (*self.layers, layer)
        past = oci.history_entry(step.shown(), empty_layer=layer is None)
        return replace(self, layers=layers, history=(*self.history, past), manifest="")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A step's layer that is in the store, or the knowledge that it makes none."""

    layer: Descriptor | None


class _NotBuilt(Exception):
    """A step's layer is not known and must not be built now; never leaves this module."""


class Builder:
    """Build, tag and export images of one store. Safe between threads and processes."""

    def __init__(
        self,
        store: Store,
        session: BuildSession,
        *,
        folders: Sequence[Path] = (),
        hook: Hook | None = None,
        base: Path | None = None,
        tell: Callable[[str], None] = _log.debug,
    ) -> None:
        """Build in `store`; relative paths of images start at `base`.

        `tell` hears what a build waits for.
        """
        self._store = store
        self._session = session
        self._folders = tuple(folders)
        self._hook = hook
        self._base = base
        self._tell = tell
        self._contents = ContentLayers(store)
        self.generation = 0
        """How often a name may have come to mean another image: who remembers it looks again."""
        self._memo: dict[Image, BuiltImage] = {}
        self._lock = threading.RLock()
        # What a command makes of the host's files today says nothing about tomorrow.
        self._session_key = uuid.uuid4().hex

    def build(self, image: Image | str) -> BuiltImage:
        """Return the image with all its layers in the store and unpacked.

        Looks at recipes, names and sources as they are now, and so does the next start of any
        image. Raises `ImageNotFound`, `RecipeError`, which names the image and the step, or
        `BuildFailed`.
        """
        with self._lock:
            self._forget()
            return self.get_built(image)

    def get_built(self, image: Image | str) -> BuiltImage:
        """Return an image as this session has built it, at first as `build` does."""
        image = Image(image) if isinstance(image, str) else image
        with self._lock:
            built = self._remembered(image, may_build=True)
            self._session.unpack(built.layers, is_host=built.is_host)
            return built

    def known(self, image: Image | str) -> BuiltImage | None:
        """Return the image if the store has all its layers; builds, runs and unpacks nothing.

        `None` also when only running a step would tell, or reading its sources; those that were
        young when they were built are read. Raises for unknown images.
        """
        image = Image(image) if isinstance(image, str) else image
        with self._lock:
            try:
                return self._remembered(image, may_build=False)
            except _NotBuilt:
                return None

    def tag(self, image: Image | BuiltImage | str, name: str) -> BuiltImage:
        """Give an image a name in the store, building it first; an older meaning is lost."""
        check_tag(name)
        built = self._portable(image, "tagged")
        with self._lock:
            self._store.refs.set(name, built.digest)
            self._forget()
        return replace(built, name=name)

    def export(
        self,
        image: Image | BuiltImage | str,
        path: Path | str,
        format: oci.Format = "oci",  # noqa: A002  the public name
        *,
        progress: oci.Progress | None = None,
    ) -> None:
        """Write an image to an archive for podman, docker and skopeo, or to a folder ("dir")."""
        built = self._portable(image, "exported")
        oci.export(
            self._store,
            built.digest,
            Path(path),
            format=format,
            name=built.name,
            progress=progress,
        )

    def _portable(self, image: Image | BuiltImage | str, what: str) -> BuiltImage:
        built = image if isinstance(image, BuiltImage) else self.build(image)
        if built.is_host:
            raise ImageError(
                f"image {built.name} cannot be {what}: it is a view of this host's files",
                hint='start from a portable image, such as Image("minimal")',
            )
        return built

    def _forget(self) -> None:
        """Look again at every image that is asked for: its name may mean another one now."""
        self._memo.clear()
        self.generation += 1

    def _remembered(self, image: Image, *, may_build: bool) -> BuiltImage:
        built = self._memo.get(image)
        if built is None:
            flat = flatten(
                image, store=self._store, folders=self._folders, hook=self._hook, base=self._base
            )
            built = self._memo[image] = self._built(flat, may_build=may_build)
        return built if built.name == image.name else replace(built, name=image.name)

    def _built(self, image: Image, *, may_build: bool) -> BuiltImage:
        """Return a flattened image, step by step."""
        progress = self._start(image, may_build=may_build)
        gatherer = Gatherer() if may_build else None
        for number, step in enumerate(image.steps, 1):
            try:
                progress = self._after(progress, step, gatherer)
            except (RecipeError, BuildFailed) as error:
                error.what = f"image {image.name}, step {number} ({step.verb}): {error.what}"
                raise
        return self._finished(progress, image.name)

    def _start(self, image: Image, *, may_build: bool) -> _Progress:
        if image.reference in (SCRATCH, HOST):
            return _Progress(is_host=image.reference == HOST)
        base = find_base(self._store, image.reference, may_import=may_build, tell=self._tell)
        if base is None:
            raise _NotBuilt
        return _Progress(
            layers=base.layers, config=base.config, history=base.history, manifest=base.manifest
        )

    def _after(self, progress: _Progress, step: Step, gatherer: Gatherer | None) -> _Progress:
        if isinstance(step, ConfigStep):
            return replace(progress.with_layer(step, None), config=progress.config.after(step))
        if isinstance(step, RunStep):
            layer = self._run_layer(progress, step, may_build=gatherer is not None)
        else:
            try:
                layer = self._content_layer(progress, step, gatherer)
            except OSError as error:  # of the store: what the host could not give is a RecipeError
                raise BuildFailed(
                    f"cannot write to the store {self._store.root}: {error.strerror}",
                    hint=repair_of(error),
                ) from error
        return progress.with_layer(step, layer)

    def _run_layer(
        self, progress: _Progress, step: RunStep, *, may_build: bool
    ) -> Descriptor | None:
        config = progress.config
        sees = {"env": config.env, "workdir": config.working_dir, "user": config.user}
        nonce = self._session_key if progress.is_host else ""
        key = _key(progress, step.canonical(), sees, nonce)
        if (found := self._cached(key)) is not None:
            return found.layer
        if not may_build:
            raise _NotBuilt
        with self._locked(key, step):
            if (found := self._cached(key)) is not None:
                return found.layer
            base = self._finished(progress, f"before {step.shown()}")
            diff_id = self._session.run_step(base, step)
            layer = self._descriptor(diff_id) if diff_id else None
            self._remember(key, layer)
            return layer

    def _content_layer(
        self, progress: _Progress, step: ContentStep, gatherer: Gatherer | None
    ) -> Descriptor | None:
        if (found := self._found(progress, step)) is not None:
            return found.layer
        if gatherer is None:
            return self._young_layer(progress, step)
        with self._locked(_key(progress, repr(step)), step):
            if (found := self._found(progress, step)) is not None:
                return found.layer
            tree = gatherer.gather(step)
            for reason in tree.skipped:
                _log.debug("%s: left out: %s", step.verb, reason)
            key = _key(progress, step.canonical(), tree.digest)
            if progress.is_host or (found := self._cached(key)) is None:
                view = self._contents.view(progress.diff_ids, is_host=progress.is_host)
                found = _Found(layer=self._contents.write(place(step, tree, view)))
                self._remember(key, found.layer)
            if reads_host(step):
                memory = memory_of(tree) if tree.is_settled else MEMORY_OF_YOUNG
                self._store.cache.put(key_of("memory", repr(step)), memory)
            return found.layer

    def _young_layer(self, progress: _Progress, step: ContentStep) -> Descriptor | None:
        """Return the layer of a step whose sources were young when it was built: reads them."""
        memory = self._store.cache.get(key_of("memory", repr(step)))
        if progress.is_host or memory != MEMORY_OF_YOUNG:
            raise _NotBuilt
        try:
            digest = Gatherer().gather(step).digest
        except RecipeError:
            raise _NotBuilt from None
        if (found := self._cached(_key(progress, step.canonical(), digest))) is None:
            raise _NotBuilt
        return found.layer

    def _found(self, progress: _Progress, step: ContentStep) -> _Found | None:
        """Return the layer of a content step, if it is known without reading any content."""
        if progress.is_host:
            return None  # where things are placed depends on the host's folders of today
        if reads_host(step):
            digest = digest_if_unchanged(self._store.cache.get(key_of("memory", repr(step))))
        else:
            digest = Gatherer().gather(step).digest
        return self._cached(_key(progress, step.canonical(), digest)) if digest else None

    def _cached(self, key: str) -> _Found | None:
        result = self._store.cache.get(key)
        if result is None:
            return None
        if result["layer"] is None:
            return _Found(layer=None)
        layer = Descriptor(digest=result["layer"], size=result["size"], media_type=oci.LAYER_TYPE)
        return _Found(layer=layer) if self._store.blobs.has(layer.digest) else None

    def _remember(self, key: str, layer: Descriptor | None) -> None:
        size = layer.size if layer else 0
        self._store.cache.put(key, {"layer": layer.digest if layer else None, "size": size})

    def _descriptor(self, diff_id: str) -> Descriptor:
        size = self._store.blobs.size(diff_id)
        return Descriptor(digest=diff_id, size=size, media_type=oci.LAYER_TYPE)

    def _locked(self, key: str, step: Step) -> AbstractContextManager[None]:
        return self._store.lock(f"step-{key}", doing=f"builds {step.shown()}", tell=self._tell)

    def _finished(self, progress: _Progress, name: str) -> BuiltImage:
        return BuiltImage(
            name=name,
            digest=progress.manifest or self._manifest_digest(progress),
            chain_id=progress.chain_id,
            layers=progress.diff_ids,
            config=progress.config,
            size=sum(layer.size for layer in progress.layers),
            is_host=progress.is_host,
        )

    def _manifest_digest(self, progress: _Progress) -> str:
        """Store manifest and config, unless they are; writing them anew costs two syncs."""
        config = progress.config.as_oci()
        key = key_of("image", oci.platform(), progress.diff_ids, config, progress.history)
        remembered = self._store.cache.get(key)
        if remembered is not None and self._store.blobs.has(str(remembered["manifest"])):
            return str(remembered["manifest"])
        manifest = oci.write_image(
            self._store, layers=progress.layers, config=config, history=progress.history
        )
        self._store.cache.put(key, {"manifest": manifest.digest})
        return manifest.digest


def _key(progress: _Progress, *parts: object) -> str:
    return key_of("step", KEY_FORMAT, ASSEMBLY, SOURCE_DATE_EPOCH, progress.chain_id, *parts)
