"""`diff --against`: another failure, a pass, another image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keeping
import pytest
from features import needs

from pytest_rootfs import Failure, Image

if TYPE_CHECKING:
    from pytest_rootfs import Container
    from pytest_rootfs.engine import Engine

Call = Callable[..., Any]  # Any: a Result of conftest.py
Keep = Callable[..., Failure]

pytestmark = [needs("userns"), pytest.mark.slow]

IMAGE = (
    Image("minimal")
    .file("/srv/app.conf", "one\ntwo\nthree\n")
    .file("/srv/tree/deep/leaf", "leaf\n")
    .file("/srv/tree/other", "other\n")
)


@pytest.fixture
def keep(engine: Engine, project: Path) -> Iterator[Keep]:
    """Keep what a function does to a container of an image; removed after the test."""
    kept: list[Failure] = []

    def run(
        change: Callable[[Container], object],
        image: Image = IMAGE,
        *,
        outcome: str = "failed",
        nodeid: str = "t.py::test_it",
    ) -> Failure:
        with engine.start(image) as container:
            change(container)
            kept.append(
                keeping.keep(engine, container, rootdir=project, nodeid=nodeid, outcome=outcome)
            )
        return kept[-1]

    yield run
    for failure in kept:
        keeping.forget(engine, failure)


def write(path: str, text: str) -> Callable[[Container], object]:
    return lambda container: container.path(path).write_text(text)


def nothing(container: Container) -> None:
    """Leave a container as it is."""


def test_against_another_failure(keep: Keep, call: Call) -> None:
    first = keep(write("/srv/app.conf", "one\nTWO\nthree\n"))
    second = keep(write("/srv/app.conf", "one\ntwo\nTHREE\n"))

    result = call("diff", second.id, "--against", first.id)

    assert result.status == 0
    assert result.out == (
        "--- a/srv/app.conf\n+++ b/srv/app.conf\n@@ -1,3 +1,3 @@\n"
        " one\n-TWO\n-three\n+two\n+THREE\n"
    )


def test_change_of_the_other_only_is_shown(keep: Keep, call: Call) -> None:
    first = keep(lambda container: container.path("/srv/app.conf").unlink())
    second = keep(nothing)

    assert "+++ b/srv/app.conf\n" in call("diff", second.id, "--against", first.id).out
    assert "+++ /dev/null\n" in call("diff", first.id, "--against", second.id).out


def test_against_the_last_pass(keep: Keep, call: Call) -> None:
    keep(write("/srv/app.conf", "of an older pass\n"), outcome="passed")
    keep(write("/srv/app.conf", "of a pass\n"), outcome="passed")
    keep(write("/srv/app.conf", "of another test\n"), outcome="passed", nodeid="t.py::test_other")
    failed = keep(write("/srv/app.conf", "of the failure\n"))

    result = call("diff", failed.id, "--against", "pass")

    assert "-of a pass\n+of the failure\n" in result.out


def test_no_pass_is_not_found(keep: Keep, call: Call) -> None:
    result = call("diff", keep(nothing).id, "--against", "pass")

    assert (result.status, result.out) == (3, "")
    assert result.err.startswith("error: no pass of t.py::test_it is kept\nhint: ")
    assert "--rootfs-keep all" in result.err


def test_same_files_are_told(keep: Keep, call: Call) -> None:
    failure = keep(write("/srv/app.conf", "one\ntwo\nthree\n"))

    assert call("diff", failure.id).err == (
        "note: the paths that changed differ in nothing but their times\n"
    )
    assert call("diff", keep(nothing).id).err == "note: nothing changed\n"


def test_images_that_differ_are_compared_whole(keep: Keep, call: Call) -> None:
    first = keep(nothing, IMAGE.file("/srv/new", "new\n"))
    other = Image("minimal").file("/srv/app.conf", "one\n").file("/srv/late", "late\n")
    second = keep(write("/srv/mine", "mine\n"), other)

    result = call("diff", second.id, "--against", first.id)

    changed = [line for line in result.out.splitlines() if line[:4] in ("--- ", "+++ ")]
    assert changed == [
        *("--- a/srv/app.conf", "+++ b/srv/app.conf"),
        *("--- /dev/null", "+++ b/srv/late"),
        *("--- /dev/null", "+++ b/srv/mine"),
        *("--- a/srv/new", "+++ /dev/null"),
        *("--- a/srv/tree/deep/leaf", "+++ /dev/null"),
        *("--- a/srv/tree/other", "+++ /dev/null"),
    ]
    assert "hostname" not in result.out


def test_deleted_folder_is_shown_to_its_depth(keep: Keep, call: Call) -> None:
    failure = keep(lambda container: container.run(["rm", "-r", "/srv/tree"]))

    whole = call("diff", failure.id).out
    below = call("diff", failure.id, "/srv/tree/deep").out

    assert "deleted directory: /srv/tree\n" in whole
    assert "-leaf\n" in whole
    assert "-other\n" in whole
    assert "-leaf\n" in below
    assert "-other\n" not in below
    assert call("diff", failure.id, "/srv/tree/nope").status == 3


def test_stat_is_short(failed: Failure, call: Call) -> None:
    result = call("diff", "last", "--stat")

    assert result.status == 0
    assert result.out.splitlines() == [
        " /srv/app.conf        | 2 +-",
        " /srv/blob            | binary 10 -> 11 bytes",
        " /srv/link            | added symlink",
        " /srv/new dir         | added directory",
        " /srv/new dir/new.txt | 2 ++",
        " /srv/old.txt         | 1 -",
        " /srv/script          | mode 0644 -> 0755",
        " 7 paths changed, 3 insertions(+), 2 deletions(-)",
    ]


def test_host_image_is_compared_with_no_other(keep: Keep, call: Call) -> None:
    first, second = keep(nothing, Image.host()), keep(nothing)

    result = call("diff", second.id, "--against", first.id)

    assert result.status == 1
    assert "cannot be compared: one lies on this host's own root directory" in result.err


def test_unknown_other_is_not_found(failed: Failure, call: Call) -> None:
    assert call("diff", "last", "--against", "nonsense").status == 3
