"""What one pytest process shares: its settings, the engine once one is needed, the running attempt.

An xdist worker is a session of its own. The engine, and all that it imports, come with the first
container. Not safe for use by several threads at once, as pytest's fixtures are not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_rootfs.attempts import Attempt, Item, Report
    from pytest_rootfs.engine import Engine
    from pytest_rootfs.failures import Failure
    from pytest_rootfs.golden import GoldenFolder
    from pytest_rootfs.head import ImageDigests
    from pytest_rootfs.image import Image
    from pytest_rootfs.keeping import Keeper
    from pytest_rootfs.options import Keep, Settings
    from pytest_rootfs.runtime.clocks import Clock
    from pytest_rootfs.runtime.container import Container
    from pytest_rootfs.runtime.spec import ContainerOptions
    from pytest_rootfs.runtime.stats import Stats
    from pytest_rootfs.secret_values import SecretValues
    from pytest_rootfs.summaries import Summary


class Session:
    """The engine of a pytest process and the containers of the test that runs."""

    def __init__(
        self,
        settings: Settings,
        *,
        config: Any,  # Any: a pytest.Config; pytest is imported by plugin, fixtures and hooks only
        warn: Callable[[str], None],
        begin_use: Callable[[], None],
    ) -> None:
        self.settings = settings
        self.attempt: Attempt | None = None
        self._config = config
        self._warn = warn
        self._begin_use = begin_use
        self._item: Item | None = None
        self._engine: Engine | None = None
        self._keeper: Keeper | None = None
        self._failure: Failure | None = None
        self._defaults: ContainerOptions | None = None
        self._images: dict[str, Image] = {}
        self._generation = 0
        self._started: set[str] = set()
        self._forks: dict[str, list[Container]] = {}
        self._timings: dict[str, float] = {}
        self._summary: Summary | None = None
        self._clock: Clock | None = None
        self._began_ns = 0

    @cached_property
    def _digests(self) -> ImageDigests:
        from pytest_rootfs.head import ImageDigests  # noqa: PLC0415  first container

        return ImageDigests(self._config)

    @property
    def summary(self) -> Summary:
        """What the end of the session says, made on first use."""
        if self._summary is None:
            from pytest_rootfs.summaries import Summary  # noqa: PLC0415  first failure

            self._summary = Summary(self.settings, project=self._config.rootpath)
        return self._summary

    @property
    def has_summary(self) -> bool:
        """Tell whether there is something to say at the end."""
        return self._summary is not None

    @property
    def engine(self) -> Engine:
        """The engine, made on first use; raises `HostUnsupported` where there can be none."""
        if self._engine is None:
            self._begin_use()
            self._engine = self._make_engine()
        return self._engine

    @property
    def defaults(self) -> ContainerOptions:
        """The options that a container has when neither mark nor call say otherwise."""
        if self._defaults is None:
            from pytest_rootfs.runtime.spec import ContainerOptions  # noqa: PLC0415  first use

            self._defaults = ContainerOptions.from_keywords(self.settings.defaults, defaults=None)
        return self._defaults

    @property
    def secrets(self) -> SecretValues | None:
        """What no report may show; None before the first container."""
        return None if self._engine is None else self._engine.secrets

    def open_store(self) -> None:
        """Open the store, unless it is, and find the failure to start from, if one is wanted.

        Raises `StoreUnusable`, `FailureNotFound`, `FailureAmbiguous`.
        """
        self.engine.store  # noqa: B018  opened by the look at it
        self._find_failure()

    def resolve(self, reference: str) -> Image:
        """Return the image that a reference means, asking the hook first."""
        if self._generation != (now := self.engine.builder.generation):
            self._images, self._generation = {}, now  # a name may mean another image now
        if reference not in self._images:
            self._images[reference] = self.engine.resolve(reference)
        return self._images[reference]

    def default_image(self) -> Image:
        """Return the image of `--rootfs-image`; of several, what the running test is given."""
        given = getattr(getattr(self._item, "callspec", None), "params", {})
        return self.resolve(given.get("_rootfs_default_image", self.settings.images[0]))

    def marked(self) -> dict[str, object]:
        """Return the keywords of the marks `container` that the running test has."""
        from pytest_rootfs import marks  # noqa: PLC0415  first container

        return {} if self._item is None else marks.merge(self._item.iter_markers("container"))

    def start(
        self, image: Image | str, keywords: Mapping[str, object], *, name: str | None = None
    ) -> Container:
        """Start a container for the test that runs; `image` is what it gets if no keyword says.

        Raises `TypeError` for an unknown keyword, `ValueError` for a bad value, and whatever the
        engine raises.
        """
        from pytest_rootfs import marks  # noqa: PLC0415  first container
        from pytest_rootfs.runtime.spec import checked_hostname  # noqa: PLC0415  likewise

        if name is not None:
            checked_hostname("name", name)  # commands see it as the host's
            if self.attempt is not None:
                self.attempt.require_free(name)
        wish: dict[str, object] = {"image": image, **keywords}
        if self._hears("pytest_rootfs_container_config"):
            wish = {**dict.fromkeys(marks.KEYWORDS), **wish}
            self._tell("pytest_rootfs_container_config", config=wish)
        rooted = marks.with_rooted_mounts(wish, self._config.rootpath)
        wanted, keep, options = marks.split(rooted, self.defaults)
        chosen = image if wanted is None else wanted
        if chosen is None:
            raise ValueError("rootfs_image is None: let the fixture return an Image, or its name")
        resolved = self.resolve(chosen) if isinstance(chosen, str) else chosen
        container = self._start(resolved, name, options)
        self._started.add(container.id)
        try:
            self._note_use(container, keep)
            self._tell("pytest_rootfs_container_started", container=container)
        except BaseException:
            container.close()
            raise
        for reference in self.settings.images:
            if self._images.get(reference) is resolved:
                self._digests.note(reference, container.built.digest)
        return container

    def _start(self, image: Image, name: str | None, options: ContainerOptions) -> Container:
        """Start a container, from where the wanted failure ended if it is one of its."""
        failure = self._find_failure()
        if failure is not None and self._item is not None:
            from pytest_rootfs import failure_start  # noqa: PLC0415  rare: somebody reruns

            position = len(self.attempt.containers) if self.attempt is not None else 0
            test, store = self._item.nodeid, self.engine.store
            state = failure_start.state_for(
                failure, test, name=name, position=position, store=store
            )
            if state is not None:
                return self.engine.start_built(state, name=name, options=options, image=image)
        return self.engine.start(image, name=name, options=options)

    def _find_failure(self) -> Failure | None:
        """Return the failure of `--rootfs-from-failure`."""
        if self._failure is None and self.settings.from_failure:
            from pytest_rootfs.failures import Failures  # noqa: PLC0415  as above

            wanted, project = self.settings.from_failure, self._config.rootpath
            self._failure = Failures(self.engine.store).get(wanted, project=project)
        return self._failure

    def stop(self, container: Container) -> None:
        """Close a container, and those that were forked from it, unless somebody has."""
        for forked in self._forks.pop(container.id, ()):
            self.stop(forked)
        if container.is_closed:
            return
        hears = self._hears("pytest_rootfs_container_stopped")
        stats = _last_stats(container) if hears else None
        container.end()
        self._tell_stopped(container, stats)

    def begin(self, item: Item) -> None:
        """Note that a test is about to run."""
        self._item = item
        self.attempt = None
        self._timings = {}
        # only in a container that is older than the test there is something to tell apart
        has_older = self._engine is not None and bool(self._engine.containers)
        self._began_ns = self._clock.now_ns() if self._clock is not None and has_older else 0

    def used(self, container: Container) -> None:
        """Note that the running test used a container; those of the builder do not count."""
        if container.id in self._started:
            self._note_use(container)

    def forked(self, container: Container, fork: Container) -> None:
        """Note that a container was forked: the other one is the running test's as well."""
        if container.id not in self._started:
            return
        if self.attempt is not None:
            try:
                self.attempt.require_free(fork.name)
            except BaseException:
                fork.close()
                raise
        self._started.add(fork.id)
        self._forks.setdefault(container.id, []).append(fork)
        policies = self.attempt.policies if self.attempt is not None else {}
        self._note_use(fork, policies.get(container.id))
        self._tell("pytest_rootfs_container_started", container=fork)

    def observe(self, report: Report, message: Callable[[], str]) -> None:
        """Look at the report of a phase of the running test."""
        self._timings[report.when] = report.duration
        if self.attempt is not None:
            self.attempt.observe(report, message, self._get_keeper)
            if report.when == "teardown":
                self.attempt.finish(report, self._tell_closed)
        if report.when == "teardown":
            self._item = self.attempt = None

    def running_request(self) -> Any | None:  # Any: a pytest.FixtureRequest
        """Return the `request` of the running test, once its wider fixtures are set up."""
        return getattr(self._item, "funcargs", {}).get("request")

    def live_container(self) -> Container | None:
        """Return the container that the running test used first, of those that live."""
        if self.attempt is None:
            return None
        return next((each for each in self.attempt.containers if not each.is_closed), None)

    def header(self) -> str | None:
        """Return the line for the head of the report."""
        if sys.platform != "linux":
            return f"rootfs: no containers on {sys.platform}, they need Linux"
        from pytest_rootfs import head  # noqa: PLC0415  a quiet run has none

        return head.look(self.settings, self._digests)

    def close(self) -> None:
        """Close the engine and every container with it; idempotent."""
        engine, self._engine = self._engine, None
        self._item = self.attempt = self._keeper = None
        if self._clock is not None:
            self._clock.close()
            self._clock = None
        if engine is None:
            return
        from pytest_rootfs.errors import RootfsError  # noqa: PLC0415  the engine has it imported

        try:
            engine.close()
        except (RootfsError, OSError) as error:
            self.summary.trouble.append(f"the session could not be closed: {error}")
        self._digests.save()

    def _make_engine(self) -> Engine:
        if sys.platform != "linux":
            from pytest_rootfs.errors import HostUnsupported  # noqa: PLC0415  elsewhere only

            raise HostUnsupported(
                f"containers need Linux, this is {sys.platform}",
                hint="run the container tests on Linux, for instance in a virtual machine",
            )
        from pytest_rootfs.engine import Engine, EngineSettings  # noqa: PLC0415  first container

        settings = EngineSettings(
            store=self.settings.store,
            limits=self.settings.limits,
            image_folders=self.settings.image_folders,
            resolve_hook=self._ask_hook if self._hears("pytest_rootfs_resolve_image") else None,
            base=self._config.rootpath,
            makes_ahead=self.settings.makes_ahead,
            secret_env=self.settings.secret_env,
        )
        from pytest_rootfs.runtime.clocks import Clock  # noqa: PLC0415  first container

        self._clock = Clock()
        engine = Engine(settings, warn=self._warn, tell=self._say)
        engine.use_listener = self.used
        engine.fork_listener = self.forked
        engine.find_golden = self._find_golden
        return engine

    def _find_golden(self) -> GoldenFolder | None:
        """Return where the running test has its golden files: beside its own file."""
        if self._item is None:
            return None
        from pytest_rootfs.golden import GoldenFolder  # noqa: PLC0415  the engine has it imported

        path = self._item.path
        folder = path.parent / "golden" / path.stem
        return GoldenFolder(path=folder, updates=self.settings.update_golden)

    def _say(self, text: str) -> None:
        """Tell the user at once, past what captures output; workers of xdist share our terminal."""
        capture = self._config.pluginmanager.getplugin("capturemanager")
        shown = capture.global_and_fixture_disabled() if capture else nullcontext()
        with shown:
            sys.stderr.write(f"rootfs: {text}\n")
            sys.stderr.flush()

    def _ask_hook(self, reference: str) -> Image | None:
        from pytest_rootfs.image import references  # noqa: PLC0415  the engine has it imported

        hook = partial(self._config.hook.pytest_rootfs_resolve_image, config=self._config)
        return references.answered(hook, reference)

    def _note_use(self, container: Container, keep: Keep | None = None) -> None:
        if self._item is None:
            return
        if self.attempt is None:
            self.attempt = self._make_attempt(self._item)
        self.attempt.use(container)
        if keep is not None:
            self.attempt.policies[container.id] = keep

    def _make_attempt(self, item: Item) -> Attempt:
        from pytest_rootfs import attempts, marks  # noqa: PLC0415  first container

        keep = marks.keep_of(item.iter_markers("container"))
        return attempts.Attempt(
            item,
            keep=keep or self.settings.keep,
            timings=self._timings,
            # figures of passed tests cost each of them a look at the cgroups
            with_figures=bool(item.config.getoption("xmlpath", None)),
            began_ns=self._began_ns,
        )

    def _get_keeper(self) -> Keeper:
        if self._keeper is None:
            from pytest_rootfs.keeping import Keeper  # noqa: PLC0415  first failure

            self._keeper = Keeper(
                self.engine,
                rootdir=self._config.rootpath,
                output=self.settings.output,
                images=self.settings.images,
            )
            self.summary.make_room()  # of what sessions have left that were killed before their end
        return self._keeper

    def _hears(self, hook: str) -> bool:
        """Tell whether anybody implements a hook; finding those of one folder takes longer."""
        return bool(getattr(self._config.hook, hook).get_hookimpls())

    def _tell_closed(self, container: Container) -> None:
        """Tell of a container that the test itself closed; its figures last until its release."""
        if container.id in self._started and self._hears("pytest_rootfs_container_stopped"):
            self._tell_stopped(container, _last_stats(container))

    def _tell_stopped(self, container: Container, stats: Stats | None) -> None:
        self._started.discard(container.id)  # told once
        self._tell("pytest_rootfs_container_stopped", container=container, stats=stats)

    def _tell(self, hook: str, **arguments: object) -> None:
        if self._item is not None and self._hears(hook):
            getattr(self._item.ihook, hook)(item=self._item, **arguments)


def _last_stats(container: Container) -> Stats | None:
    from pytest_rootfs.errors import RootfsError  # noqa: PLC0415  rare: somebody listens

    try:
        return container.stats()
    except RootfsError:
        return None  # it has died, and its cgroup with it
