"""`--rootfs-output`: a folder of every failure, for those who collect files of a build."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from features import needs

from pytest_rootfs import keeping

pytestmark = needs("userns")

Failures = Callable[[pytest.RunResult], list[dict[str, Any]]]


def test_output_gets_an_oci_layout(pytester: pytest.Pytester, failures: Failures) -> None:
    pytester.makepyfile("def test_it(container): container.run('touch /etc/new; false')")

    result = pytester.runpytest_subprocess("--rootfs-output=artefacts")

    failure = failures(result)[0]
    folder = pytester.path / "artefacts" / f"{failure['id']}-test_it"
    assert {"oci-layout", "index.json", "blobs", "failure.json"} <= set(
        map(_name, folder.iterdir())
    )
    assert (folder / "blobs" / failure["manifest"].replace(":", "/")).exists()


def test_output_takes_links_as_links(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        def pytest_rootfs_collect_failure(failure):
            (failure.folder / "host").symlink_to("/etc/passwd")
            (failure.folder / "gone").symlink_to("nowhere")
        """
    )
    pytester.makepyfile("def test_it(container): assert False")

    result = pytester.runpytest_subprocess("--rootfs-output=artefacts")

    [copied] = (pytester.path / "artefacts").iterdir()
    assert (copied / "host").is_symlink() and (copied / "gone").is_symlink()
    result.stdout.no_fnmatch_line("copy to *")


def test_output_folder_is_one_name() -> None:
    assert keeping.file_name("../db a") == ".._db_a"


def _name(path: Any) -> str:
    return str(path.name)
