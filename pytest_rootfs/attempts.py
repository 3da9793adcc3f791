"""One run of one test: which containers it used, and what its failure leaves.

A test that is run again (pytest-rerunfailures) is another attempt, with a failure of its own.
Nothing here changes the outcome of a test: what goes wrong becomes a section of the report.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

from pytest_rootfs.errors import ContainerError, one_line

if TYPE_CHECKING:
    from pytest_rootfs.failure_record import Phase
    from pytest_rootfs.keeping import Keeper
    from pytest_rootfs.marks import Mark
    from pytest_rootfs.options import Keep
    from pytest_rootfs.runtime.container import Container

logger = logging.getLogger(__name__)

PROPERTIES = ("rootfs_image", "rootfs_failure", "rootfs_memory_peak")
NOTE_KEY = "rootfs_failure"
"""The attribute of a report that carries a `Note` from an xdist worker to the controller."""


class Note(TypedDict):
    """What the terminal summary says of a kept failure; JSON-able, as all that a report carries."""

    id: str
    outcome: str
    line: str
    size: int


class Item(Protocol):
    """What is used of a `pytest.Item`."""

    @property
    def nodeid(self) -> str:
        """The test's node id."""

    @property
    def path(self) -> Path:
        """The file of the test."""

    @property
    def user_properties(self) -> list[tuple[str, object]]:
        """What every report of the test starts with."""

    @property
    def config(self) -> Any:  # Any: pytest is imported by plugin, fixtures and hooks only
        """The `pytest.Config`."""

    def iter_markers(self, name: str) -> Iterator[Mark]:
        """Return the marks of a name, closest first."""

    @property
    def ihook(self) -> Any:  # Any: pytest makes the hook callers at run time
        """The hooks that are in force where the test is."""


class Report(Protocol):
    """What is used of a `pytest.TestReport`."""

    @property
    def when(self) -> Phase:
        """The phase that ended."""

    @property
    def outcome(self) -> str:
        """Passed, failed or skipped."""

    @property
    def duration(self) -> float:
        """Seconds."""

    @property
    def longreprtext(self) -> str:
        """The whole text of the failure."""

    @property
    def sections(self) -> list[tuple[str, str]]:
        """What is shown below the failure."""

    @property
    def user_properties(self) -> list[tuple[str, object]]:
        """What JUnit gets."""


class Attempt:
    """The containers that one run of one test used, in the order of their first use."""

    def __init__(
        self,
        item: Item,
        *,
        keep: Keep,
        timings: Mapping[str, float],
        with_figures: bool,
        began_ns: int,
    ) -> None:
        self.item = item
        self._with_figures = with_figures
        self.keep = keep
        self.timings = timings
        self.began_ns = began_ns
        """When the test began, by the clock of file systems; 0 when no container was older."""
        self.containers: list[Container] = []
        self.policies: dict[str, Keep] = {}
        self._outcome = "passed"
        self._reported = False
        item.user_properties[:] = [
            pair for pair in item.user_properties if pair[0] not in PROPERTIES
        ]

    def use(self, container: Container) -> None:
        """Note that the test used a container; its rw layer outlives it until `finish`."""
        if container not in self.containers:
            self.containers.append(container)
        container.retain = True

    def require_free(self, name: str) -> None:
        """Refuse a name that a live container has: a failure is read, and rerun, by the names."""
        if any(each.name == name and not each.is_closed for each in self.containers):
            raise ContainerError(
                f"the name {name!r} is taken: the test has a container of that name already",
                hint="close that one first, or give another name",
            )

    def observe(
        self, report: Report, message: Callable[[], str], keeper: Callable[[], Keeper]
    ) -> None:
        """Look at the report of a phase; at the first failed one keep the containers."""
        if report.outcome != "passed":
            self._outcome = report.outcome
        if not self.containers or self._reported:
            return
        failed = report.outcome == "failed"
        at_end = report.when == "teardown" and any(map(self._keeps_passed, self.containers))
        if failed or at_end:
            self._reported = True
            try:
                keeper().keep(self, report, message=message(), failed=failed)
            except Exception as error:
                logger.debug("failure not kept", exc_info=True)
                report.sections.append(("rootfs failure", f"not kept: {one_line(error)}"))
        elif report.when == "teardown":
            measured = self.containers if self._with_figures else ()
            peaks = [each.stats().memory_peak_bytes for each in measured]
            report.user_properties.extend(properties(self.containers, peaks))

    def finish(self, report: Report, tell_closed: Callable[[Container], None]) -> None:
        """Let go of the rw layers of containers that are closed; the others live on."""
        for container in self.containers:
            container.retain = False
            if not container.is_closed:
                continue
            for step in (partial(tell_closed, container), container.release):
                try:
                    step()
                except Exception as error:
                    logger.debug("container not released", exc_info=True)
                    report.sections.append(("rootfs failure", f"at release: {one_line(error)}"))

    def kept_containers(self, *, failed: bool) -> list[Container]:
        """Return the containers whose rw layers are wanted."""
        if failed:
            return [each for each in self.containers if self._policy(each) != "none"]
        return [each for each in self.containers if self._keeps_passed(each)]

    @property
    def outcome(self) -> str:
        """The worst outcome so far."""
        return self._outcome

    def _policy(self, container: Container) -> Keep:
        return self.policies.get(container.id, self.keep)

    def _keeps_passed(self, container: Container) -> bool:
        return self._policy(container) == "all"


def properties(
    containers: Sequence[Container], peaks: Iterable[int | None], *, failure_id: str = ""
) -> list[tuple[str, object]]:
    """Return what JUnit gets; a figure that the host does not give is None."""
    images = dict.fromkeys(each.built.name for each in containers)
    found: list[tuple[str, object]] = [("rootfs_image", ", ".join(images))]
    if failure_id:
        found.append(("rootfs_failure", failure_id))
    if known := [peak for peak in peaks if peak is not None]:
        found.append(("rootfs_memory_peak", max(known)))
    return found
