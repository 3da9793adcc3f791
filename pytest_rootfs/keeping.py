"""Turn the containers of an attempt into a kept failure, and say so on the test's report.

Imported at the first failure of a container test, never before.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_rootfs import failures
from pytest_rootfs import report as texts
from pytest_rootfs.attempts import NOTE_KEY, Attempt, Note, Report, first_line

if TYPE_CHECKING:
    from pytest_rootfs.engine import Engine
    from pytest_rootfs.failures import Failure
    from pytest_rootfs.runtime.container import Container


class Keeper:
    """Keeps failures of one session in its store."""

    def __init__(
        self,
        engine: Engine,
        *,
        rootdir: Path,
        output: Path | None,
        images: tuple[str, ...] = (),
    ) -> None:
        self._engine = engine
        self._rootdir = rootdir
        self._output = output
        self._images = images

    def keep(self, attempt: Attempt, report: Report, *, message: str, failed: bool) -> None:
        """Keep what is wanted of an attempt; put sections, properties and a note on the report."""
        wanted = attempt.kept_containers(failed=failed)
        failure = self._keep(attempt, wanted, report, message) if wanted else None
        kept = list(failure.containers) if failure else []
        if failed:
            unwanted = [each for each in attempt.containers if each not in wanted]
            kept += [failures.look(each) for each in unwanted]
            report.sections.extend(texts.sections(kept))
        properties = _properties(attempt.containers, failure)
        report.user_properties.extend(properties)
        attempt.item.user_properties.extend(properties)
        if failure is not None:
            vars(report)[NOTE_KEY] = Note(
                id=failure.id,
                outcome=failure.outcome,
                line=failures.summary_line(failure),
                size=failure.size,
            )
            self._tell(attempt, wanted, report, failure)

    def _keep(
        self, attempt: Attempt, wanted: list[Container], report: Report, message: str
    ) -> Failure:
        return failures.keep(
            self._engine,
            wanted,
            nodeid=attempt.item.nodeid,
            phase=report.when,
            outcome=attempt.outcome,
            message=message,
            rootdir=self._rootdir,
            timings=attempt.timings,
            policy=attempt.keep,
            images=self._images,
        )

    def _tell(
        self, attempt: Attempt, wanted: list[Container], report: Report, failure: Failure
    ) -> None:
        """Let hooks add to the failure, then copy it; a step that fails stops no other."""
        item = attempt.item

        def collect(container: Container) -> None:
            item.ihook.pytest_rootfs_collect_failure(
                item=item, container=container, failure=failure
            )

        def announce() -> None:
            item.ihook.pytest_rootfs_failure_kept(config=item.config, failure=failure)

        steps: list[tuple[str, Callable[[], object]]] = [
            ("pytest_rootfs_collect_failure", partial(collect, each)) for each in wanted
        ]
        steps.append(("pytest_rootfs_failure_kept", announce))
        if self._output is not None:
            steps.append((f"copy to {self._output}", lambda: self._copy(failure)))
        for name, step in steps:
            try:
                step()
            except Exception as error:  # noqa: BLE001  keeping never changes an outcome
                report.sections.append(("rootfs failure", f"{name}: {first_line(error)}"))

    def _copy(self, failure: Failure) -> None:
        """Copy a failure out of the store: an OCI layout, with its record and added files."""
        from pytest_rootfs.store import oci  # noqa: PLC0415  only with --rootfs-output

        if self._output is None:
            return
        target = self._output / f"{failure.id}-{file_name(failure.nodeid.rpartition('::')[2])}"
        self._output.mkdir(parents=True, exist_ok=True)
        store = self._engine.store
        for number, kept in enumerate(failure.containers):
            name = f"{number}-{file_name(kept.name)}"
            place = target if number == 0 else target / "containers" / name
            if kept.manifest:
                place.parent.mkdir(parents=True, exist_ok=True)
                oci.export(store, kept.manifest, place, format="dir")
        folder = failures.Failures(store).folder(failure)
        shutil.copytree(folder, target, dirs_exist_ok=True)


def sweep(store_root: Path, *, project: Path, count: int, size_bytes: int) -> set[str]:
    """Remove the oldest failures of a project beyond what is to be kept; return their ids."""
    from pytest_rootfs.store.store import Store  # noqa: PLC0415  the xdist controller has no engine

    store = Store.open(store_root)
    try:
        return set(failures.Failures(store).sweep(count, size_bytes, project=project))
    finally:
        store.close()


def file_name(text: str) -> str:
    """Return a text as a part of a file's name."""
    return re.sub(r"[^\w.-]+", "_", text)[:60].strip("_")


def _properties(containers: list[Container], failure: Failure | None) -> list[tuple[str, object]]:
    """Return what JUnit gets."""
    images = dict.fromkeys(each.built.name for each in containers)
    properties: list[tuple[str, object]] = [("rootfs_image", ", ".join(images))]
    if failure is not None:
        properties.append(("rootfs_failure", failure.id))
        peaks = [peak for each in failure.containers if (peak := _peak(each.stats)) is not None]
        if peaks:
            properties.append(("rootfs_memory_peak", max(peaks)))
    return properties


def _peak(stats: Mapping[str, object]) -> int | None:
    peak = stats.get("memory_peak_bytes")
    return peak if isinstance(peak, int) else None
