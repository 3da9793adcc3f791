"""One session of containers: the store, the processes, and what starts on them.

Nothing is started before the first container. When the processes are lost (somebody killed them),
their containers are dead and the next `start` begins with new ones.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

from pytest_rootfs.build_steps import BuildSteps
from pytest_rootfs.builder import Builder, BuiltImage
from pytest_rootfs.enforcement import Enforcement
from pytest_rootfs.errors import RootfsError
from pytest_rootfs.golden import GoldenFolder
from pytest_rootfs.homes import ContainerHome, Services
from pytest_rootfs.image import Image
from pytest_rootfs.image.references import resolve
from pytest_rootfs.options import LimitsPolicy
from pytest_rootfs.runtime import host_trees, launch, protocol, starts
from pytest_rootfs.runtime.client import PeerGone
from pytest_rootfs.runtime.container import Container
from pytest_rootfs.runtime.ids import Ids, find_ids
from pytest_rootfs.runtime.plan import Plan, make_plan
from pytest_rootfs.runtime.root_trees import HOST
from pytest_rootfs.runtime.session import Session
from pytest_rootfs.runtime.spec import ContainerOptions
from pytest_rootfs.secret_values import SecretValues
from pytest_rootfs.settings import SECRET_ENV
from pytest_rootfs.store.store import Store
from pytest_rootfs.unpacking import Unpacker

_log = logging.getLogger(__name__)

RESOLV_CONF_BYTES = 65536
KEPT_PLANS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What a session is told once."""

    store: Path
    limits: LimitsPolicy = "strict"
    image_folders: tuple[Path, ...] = ()
    resolve_hook: Callable[[str], Image | None] | None = None
    """Asked first what a reference means; None from it means that others decide."""

    secret_env: tuple[str, ...] = SECRET_ENV
    """Globs of the environment variables whose values no report shows."""
    base: Path | None = None
    """Where relative paths of images (`oci:build/app`) start; None is the current directory."""

    makes_ahead: bool = True
    """Whether the next container is made while a test runs; never on a single core."""


class Engine:
    """Starts containers. Safe to use from several threads; close it when done."""

    def __init__(
        self,
        settings: EngineSettings,
        *,
        warn: Callable[[str], None],
        tell: Callable[[str], None] | None = None,
    ) -> None:
        """Start nothing yet. `warn` hears, once each, of limits that are not enforced.

        `tell` hears of whom a start has been waiting for; without it that is logged.
        """
        self.settings = settings
        self.containers: list[Container] = []
        self.use_listener: Callable[[Container], None] | None = None
        self.find_golden: Callable[[], GoldenFolder | None] = lambda: None
        """Tells where the running test has its golden files, if one runs."""
        self.secrets = SecretValues(settings.secret_env)
        self.fork_listener: Callable[[Container, Container], None] | None = None
        """Hears of a container and of the one that was forked from it."""
        self.tell: Callable[[str], None] = tell or _log.debug
        self._store: Store | None = None
        self._builder: Builder | None = None
        self._ids: Ids | None = None
        self._session: Session | None = None
        self._plans: dict[object, Plan] = {}
        self._unpacker = Unpacker(self)
        self._enforcement = Enforcement(settings.limits, warn)
        self._lock = threading.RLock()

    @property
    def store(self) -> Store:
        """The store, opened on first use; raises StoreUnusable for an unsuitable folder."""
        with self._lock:
            if self._store is None:
                self._store = Store.open(self.settings.store)
            return self._store

    @property
    def builder(self) -> Builder:
        """The builder of images in the store."""
        with self._lock:
            if self._builder is None:
                self._builder = Builder(
                    self.store,
                    BuildSteps(self),
                    folders=self.settings.image_folders,
                    hook=self.settings.resolve_hook,
                    base=self.settings.base,
                    tell=self.tell,
                )
            return self._builder

    @property
    def ids(self) -> Ids:
        """The id maps of this user."""
        if self._ids is None:
            self._ids = find_ids()
        return self._ids

    @property
    def session(self) -> Session:
        """The processes, started on first use or anew when they are gone."""
        with self._lock:
            if self._session is not None and not self._session.is_alive:
                self._end(self._session)
            if self._session is None:
                layers_fd = self.store.layers_fd(self.ids.key, self.layer_owner)
                path = self.store.root / "layers" / self.ids.key
                try:
                    makes_ahead = self.settings.makes_ahead
                    self._session = Session(self.ids, layers_fd, path, makes_ahead=makes_ahead)
                finally:
                    os.close(layers_fd)
            return self._session

    @property
    def layer_owner(self) -> tuple[int, int] | None:
        """The host ids that own unpacked layers; None when that is this user."""
        return self.ids.owner if self.ids.mode == "rootful" else None

    def resolve(self, reference: str) -> Image:
        """Return the image that a reference names; raises ImageNotFound."""
        settings = self.settings
        return resolve(
            reference,
            store=self.store,
            folders=settings.image_folders,
            hook=settings.resolve_hook,
            base=settings.base,
        )

    def start(
        self,
        image: Image | str,
        *,
        name: str | None = None,
        options: ContainerOptions | None = None,
    ) -> Container:
        """Build the image if needed and start a container of it."""
        with starts.shortages_told():
            try:
                built = self.builder.get_built(image)
                found = Image(image) if isinstance(image, str) else image
                return self.start_built(built, name=name, options=options, image=found)
            except (RootfsError, OSError):
                self.store.require()
                raise

    def start_built(
        self,
        built: BuiltImage,
        *,
        name: str | None = None,
        options: ContainerOptions | None = None,
        extra_layers: Sequence[str] = (),
        image: Image | None = None,
    ) -> Container:
        """Start a container of a built image, with more layers on top of it (bottom first).

        Raises LimitUnavailable, HostUnsupported, ContainerError; then nothing is left behind.
        """
        options = options or ContainerOptions()
        with starts.shortages_told():
            session = self.session
            try:
                return self._start(built, name, options, extra_layers, image)
            except PeerGone as error:
                if session.answers:
                    raise starts.unheard() from error
                self._end(session)  # lost since the last container: once more, with new processes
            try:
                return self._start(built, name, options, extra_layers, image)
            except PeerGone as error:
                raise starts.lost() from error

    def explain(self, image: Image | str, *, options: ContainerOptions | None = None) -> list[str]:
        """Return the plan of a container as text, a step a line; starts none."""
        built = self.builder.get_built(image)
        return self._plan(built, None, options or ContainerOptions(), ()).describe()

    def unpack(self, layers: Sequence[str], *, is_host: bool = False) -> tuple[str, ...]:
        """Unpack layers, bottom first, unless they are; return the names of their trees."""
        return self._unpacker.unpack(layers, is_host=is_host)

    def close(self) -> None:
        """End every container and process of the session. Idempotent."""
        with self._lock, contextlib.ExitStack() as ending:
            if self._store is not None:
                ending.callback(self._store.close)
            if self._session is not None:
                ending.callback(self._session.close)
                self._session = None
            for container in list(self.containers):
                container.retain = False
                ending.callback(container.close)

    def _start(
        self,
        built: BuiltImage,
        name: str | None,
        options: ContainerOptions,
        extra_layers: Sequence[str],
        image: Image | None,
    ) -> Container:
        session = self.session
        plan = self._plan(built, name, options, extra_layers)
        trees = host_trees.open_trees(session, plan, options)
        try:
            created = session.create(plan.key, plan.content, trees)
        finally:
            protocol.close_all(trees)
        services = Services(
            plan=partial(self._plan, built, name, options),
            open_trees=lambda plan: host_trees.open_trees(session, plan, options),
            may_limit=partial(self._enforcement.covers, session),
            fork=self._fork,
            tag=lambda digest, tag: self.builder.tag(replace(built, digest=digest), tag),
            touch=self._touch,
            forget=self._forget,
            note_env=self.secrets.note,
            golden_folder=self.find_golden,
        )
        defaults = _defaults(built, options)
        self.secrets.note(defaults.env)
        home = ContainerHome(
            store=self.store, session=session, plan=plan, added=extra_layers, services=services
        )
        container = Container(
            created,
            name=name or f"rootfs-{created.container_id}",
            image=image if image is not None else Image(built.name),
            built=built,
            hostname=_hostname(name, options),
            options=options,
            defaults=defaults,
            home=home,
        )
        self.containers.append(container)
        return container

    def _fork(self, container: Container, layers: Sequence[str], name: str | None) -> Container:
        forked = self.start_built(
            container.built,
            name=name,
            options=container.options,
            extra_layers=layers,
            image=container.image,
        )
        if self.fork_listener is not None:
            self.fork_listener(container, forked)
        return forked

    def _plan(
        self,
        built: BuiltImage,
        name: str | None,
        options: ContainerOptions,
        extra_layers: Sequence[str],
    ) -> Plan:
        """Return the plan; containers that differ in environment, user or time share one."""
        hostname = _hostname(name, options)
        kinds = tuple(host_trees.kind_of(mount.source) for mount in options.mounts or ())
        relevant = options
        if (options.env, options.user, options.timeout) != (None, None, None):
            relevant = replace(options, env=None, user=None, timeout=None)
        # `host` has no layer of its own, and so the digest of `scratch`
        image = built.digest, built.layers, built.is_host
        resolv_conf = _resolv_conf() if options.network == "host" else ""
        key = (*image, tuple(extra_layers), relevant, hostname, kinds, resolv_conf)
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= KEPT_PLANS:
                self._plans.clear()
            stack = (*built.layers, *extra_layers)
            layers = [*reversed(self.unpack(stack, is_host=built.is_host))]
            plan = self._plans[key] = make_plan(
                layers=[*layers, HOST] if built.is_host else layers,
                is_singular=bool(extra_layers),
                has_host_tree=built.is_host and self.ids.mode == "rootful",
                options=options,
                limits=self._enforcement.limits_of(self.session, options),
                hostname=hostname,
                workdir=options.workdir or built.config.working_dir or "/",
                ids=self.ids,
                mount_kinds=kinds,
                resolv_conf=resolv_conf,
            )
        return plan

    def _end(self, session: Session) -> None:
        with self._lock:
            session.close()
            if self._session is session:
                self._session = None

    def _touch(self, container: Container) -> None:
        if self.use_listener is not None:
            self.use_listener(container)

    def _forget(self, container: Container) -> None:
        with contextlib.suppress(ValueError):
            self.containers.remove(container)


def _hostname(name: str | None, options: ContainerOptions) -> str:
    return options.hostname or name or "rootfs"


def _defaults(built: BuiltImage, options: ContainerOptions) -> launch.Defaults:
    env = _image_env(built.config.env)
    return launch.Defaults(
        env={**env, **options.env} if options.env else env,
        cwd=options.workdir or built.config.working_dir or "/",
        user=options.user or built.config.user or "0",
    )


@lru_cache(maxsize=KEPT_PLANS)
def _image_env(pairs: tuple[str, ...]) -> Mapping[str, str]:
    """Return the environment of an image's commands, shared by all of its containers."""
    return {**launch.DEFAULT_ENV, **dict(pair.split("=", 1) for pair in pairs)}


def _resolv_conf() -> str:
    try:
        with open("/etc/resolv.conf", encoding="utf-8", errors="replace") as stream:
            return stream.read(RESOLV_CONF_BYTES)
    except OSError:
        return ""
