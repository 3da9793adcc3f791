"""Turn the containers of an attempt into a kept failure, and say so on the test's report.

Imported at the first failure of a container test, never before.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_rootfs import failures
from pytest_rootfs import report as texts
from pytest_rootfs.attempts import NOTE_KEY, Attempt, Note, Report, properties
from pytest_rootfs.errors import one_line

if TYPE_CHECKING:
    from pytest_rootfs.engine import Engine
    from pytest_rootfs.failures import Failure, KeptContainer
    from pytest_rootfs.runtime.container import Container

logger = logging.getLogger(__name__)


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
        self._test_files: dict[Path, dict[str, str]] = {}
        self._images = images

    def keep(self, attempt: Attempt, report: Report, *, message: str, failed: bool) -> None:
        """Keep what is wanted of an attempt; put sections, properties and a note on the report."""
        wanted = attempt.kept_containers(failed=failed)
        view = failures.Viewpoint(began_ns=attempt.began_ns, secrets=self._engine.secrets)
        store = self._engine.store
        kept = [failures.look_and_keep(each, view, store) for each in wanted]
        if failed:
            unwanted = [each for each in attempt.containers if each not in wanted]
            seen = [failures.look(each, view) for each in unwanted]
            report.sections.extend(texts.sections([*kept, *seen]))
        failure = self._publish(attempt, kept, report, message) if kept else None
        peaks = [each.stats.get("memory_peak_bytes") for each in kept]
        failure_id = "" if failure is None else failure.id
        found = properties(attempt.containers, peaks, failure_id=failure_id)
        report.user_properties.extend(found)
        attempt.item.user_properties.extend(found)
        if failure is not None:
            self._add_extra(attempt, report, failure)
            vars(report)[NOTE_KEY] = Note(
                id=failure.id,
                outcome=failure.outcome,
                line=failures.summary_line(failure),
                size=failure.size,
            )
            self._tell(attempt, wanted, report, failure)

    def _publish(
        self, attempt: Attempt, kept: Sequence[KeptContainer], report: Report, message: str
    ) -> Failure | None:
        """Write the failure; when that cannot be done, say why."""
        failure = failures.Failure(
            id="",
            nodeid=attempt.item.nodeid,
            when=report.when,
            outcome=attempt.outcome,
            time=failures.now(),
            message=self._engine.secrets.hidden(message),
            rootdir=str(self._rootdir),
            containers=tuple(kept),
            keep=attempt.keep,
            images=self._images,
            timings=dict(attempt.timings),
            test_file=self._test_file(attempt.item.path),
        )
        try:
            return failures.publish(self._engine.store, failure)
        except OSError as error:
            logger.debug("failure not written", exc_info=True)
            report.sections.append(("rootfs failure", f"not kept: {one_line(error)}"))
            return None

    def _add_extra(self, attempt: Attempt, report: Report, failure: Failure) -> None:
        """Put the failure on the page of pytest-html, where one is being written."""
        if not attempt.item.config.getoption("htmlpath", None):
            return
        from pytest_html import extras  # noqa: PLC0415  it is there where its option is

        parts = [failures.summary_line(failure)]
        parts += [f"{title}\n{text}" for title, text in texts.sections(failure.containers)]
        text = extras.text("\n\n".join(parts), name=f"rootfs {failure.id}")
        vars(report)["extras"] = [*getattr(report, "extras", []), text]

    def _test_file(self, path: Path) -> dict[str, str]:
        """Return path and digest of a test's file; it may have changed since it was imported."""
        if path not in self._test_files:
            try:
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
            except OSError:
                return {}
            name = os.path.relpath(path, self._rootdir)
            self._test_files[path] = {"path": name, "sha256": digest}
        return self._test_files[path]

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
                report.sections.append(("rootfs failure", f"{name}: {one_line(error)}"))

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
        shutil.copytree(folder, target, symlinks=True, dirs_exist_ok=True)


def sweep(store_root: Path, *, project: Path, count: int, size_bytes: int) -> set[str]:
    """Remove the oldest failures of a project beyond what is to be kept; return their ids."""
    from pytest_rootfs.store.store import Store  # noqa: PLC0415  the xdist controller has no engine

    store = Store.open(store_root)
    try:
        return set(failures.Failures(store).sweep(count, size_bytes, project=project))
    finally:
        store.close()


def free(store_root: Path) -> None:
    """Delete the layers of removed failures; those that a running session uses stay."""
    from pytest_rootfs.store.collect import free_blobs  # noqa: PLC0415  only where some were removed
    from pytest_rootfs.store.store import Store  # noqa: PLC0415  as above

    with Store.open(store_root) as store:
        free_blobs(store)


def file_name(text: str) -> str:
    """Return a text as a part of a file's name."""
    return re.sub(r"[^\w.-]+", "_", text)[:60].strip("_")
