"""Kept failures: their record, and finding, removing and sweeping them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from pytest_rootfs import failure_shape
from pytest_rootfs.failure_record import Failure, KeptContainer, KeptImage
from pytest_rootfs.failures import (
    FailureAmbiguous,
    FailureNotFound,
    Failures,
    belongs,
    summary_line,
)
from pytest_rootfs.store.store import Store

IMAGE = KeptImage(
    name="minimal",
    digest="sha256:" + "1" * 64,
    layers=("sha256:" + "2" * 64,),
    config={"Env": ["A=1"]},
)
CONTAINER = KeptContainer(
    name="rootfs",
    image=IMAGE,
    user="root",
    workdir="/",
    env={"A": "1"},
    limits={"memory": 64 << 20, "pids": None},
    changes=({"path": "/a", "kind": "added", "type": "file", "before": None, "after": None},),
    commands=({"argv": ["true"], "returncode": 0, "duration_s": 0.1},),
    manifest="sha256:" + "3" * 64,
    layer="sha256:" + "4" * 64,
    size=2 << 20,
)
Make = Callable[..., Failure]


@pytest.fixture
def failures(tmp_path: Path) -> Iterator[Failures]:
    with Store.open(tmp_path / "store") as store:
        yield Failures(store)


@pytest.fixture
def make(failures: Failures) -> Make:
    """Publish a failure; each is a second younger than the last."""

    def publish(
        failure_id: str,
        nodeid: str = "tests/test_x.py::test_install",
        *,
        rootdir: str = "/project",
        size: int = 2 << 20,
    ) -> Failure:
        number = len(failures.list())
        failure = Failure(
            id=failure_id,
            nodeid=nodeid,
            when="call",
            outcome="failed",
            time=f"2026-01-01T00:00:{number:02}.000+00:00",
            message="assert 0",
            rootdir=rootdir,
            containers=(
                KeptContainer(name="rootfs", image=IMAGE, manifest=CONTAINER.manifest, size=size),
            ),
        )
        failures.publish(failure)
        return failure

    return publish


def record(*containers: KeptContainer, nodeid: str = "t.py::t") -> Failure:
    return Failure(
        id="abc123",
        nodeid=nodeid,
        when="call",
        outcome="failed",
        time="2026-01-01T00:00:00.000+00:00",
        message="assert 0",
        rootdir="/project",
        containers=containers,
        timings={"setup": 0.1},
    )


def test_record_survives_json() -> None:
    second = KeptContainer(name="db", image=IMAGE, size=5)
    failure = record(CONTAINER, second)

    read = Failure.from_json(json.loads(json.dumps(failure.to_json())))

    assert read == failure
    assert read.size == CONTAINER.size + 5


def test_record_has_the_promised_keys() -> None:
    promised = "id nodeid when outcome time image limits stats changes commands processes message"
    more = "containers manifest rootdir user workdir env keep size"

    data = record(CONTAINER).to_json()

    assert [key for key in f"{promised} {more}".split() if key not in data] == []
    assert data["image"]["name"] == "minimal"


def test_every_member_has_a_form() -> None:
    members = {each.name for each in (*fields(KeptContainer), *fields(Failure))} - {"folder"}

    forms = {**failure_shape.CONTAINER, **failure_shape.FAILURE}

    assert {name.removeprefix("*") for name in forms} == members


def test_unknown_keys_are_ignored() -> None:
    data = record(CONTAINER).to_json() | {"added_later": 1}

    assert Failure.from_json(data) == record(CONTAINER)


@pytest.mark.parametrize(
    "data", [{}, {"format": 2}, {"format": 1}, {"format": 1, "containers": 3, "size": 1}]
)
def test_foreign_json_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"format|id is missing"):
        Failure.from_json(data)


def test_published_failure_is_listed(failures: Failures, make: Make) -> None:
    failure = make("abc123", "tests/tëst.py::test[\udcff-日本]" + "x" * 500)

    assert failures.list() == [failure]
    assert list((failures.store.root / "tmp").iterdir()) == []


def test_newest_failure_comes_first(failures: Failures, make: Make) -> None:
    make("aaaaaa")
    make("bbbbbb")

    assert [failure.id for failure in failures.list()] == ["bbbbbb", "aaaaaa"]


def test_taken_id_is_refused_and_leaves_nothing(failures: Failures, make: Make) -> None:
    first = make("abc123")

    with pytest.raises(FileExistsError):
        make("abc123", "other.py::test")

    assert failures.list() == [first]
    assert list((failures.store.root / "tmp").iterdir()) == []


def test_half_a_failure_is_damaged(failures: Failures, make: Make) -> None:
    make("abc123")
    (failures.store.failures_dir / "half").mkdir()
    (failures.store.failures_dir / "half" / "failure.json").write_text('{"format": 1, "id')

    assert failures.damaged() == ["half"]
    assert [failure.id for failure in failures.list()] == ["abc123"]
    with pytest.raises(FailureNotFound, match=r"failure half cannot be read: its failure\.json"):
        failures.get("half")
    failures.remove("half")
    assert failures.damaged() == []


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("/project", True),
        ("/project/tests", True),
        ("/", True),
        ("/project2", False),
        ("/other", False),
    ],
)
def test_failure_belongs_above_and_below(folder: str, *, expected: bool) -> None:
    assert belongs(record(CONTAINER), Path(folder)) is expected


def test_last_is_the_newest_of_the_project(failures: Failures, make: Make) -> None:
    make("aaaaaa")
    make("bbbbbb", rootdir="/other")

    assert failures.get("last", project=Path("/project")).id == "aaaaaa"
    assert failures.get("last").id == "bbbbbb"


def test_last_without_failures_says_so(failures: Failures, make: Make) -> None:
    with pytest.raises(FailureNotFound, match="no failure is kept"):
        failures.get("last", project=Path("/project"))
    make("bbbbbb", rootdir="/other")
    with pytest.raises(FailureNotFound, match="bbbbbb"):
        failures.get("last", project=Path("/project"))


@pytest.mark.parametrize(
    "wanted", ["aaaaaa", "aaa", "a.py::test_one", "test_one", "a.py::test_one[x]"]
)
def test_failure_is_found(failures: Failures, make: Make, wanted: str) -> None:
    make("aaaaaa", "a.py::test_one[x]")
    make("bbbbbb", "a.py::test_two")

    assert failures.get(wanted, project=Path("/project")).id == "aaaaaa"


def test_exact_node_id_beats_a_longer_one(failures: Failures, make: Make) -> None:
    make("aaaaaa", "a.py::test_one")
    make("bbbbbb", "a.py::test_one_more")

    assert failures.get("a.py::test_one").id == "aaaaaa"


def test_name_of_a_test_beats_that_of_its_file(failures: Failures, make: Make) -> None:
    meant = make("aaaaaa", "tests/test_app.py::test_app")
    make("bbbbbb", "tests/test_app.py::test_other")

    assert failures.get("test_app") == meant


@pytest.mark.parametrize("wanted", ["test[é\n]", "é", r"test[\xe9\n]"])
def test_node_id_is_found_as_the_source_has_it(failures: Failures, make: Make, wanted: str) -> None:
    meant = make("aaaaaa", r"tests/test_app.py::test[\xe9\n]")

    assert failures.get(wanted) == meant


def test_newest_attempt_of_a_test_is_meant(failures: Failures, make: Make) -> None:
    make("aaaaaa")
    make("bbbbbb")

    assert failures.get("test_install").id == "bbbbbb"


def test_id_is_found_in_other_projects(failures: Failures, make: Make) -> None:
    make("aaaaaa", rootdir="/other")
    make("bbbbbb")

    assert failures.get("aaaaaa", project=Path("/project")).id == "aaaaaa"


def test_ambiguous_part_lists_matches(failures: Failures, make: Make) -> None:
    make("aaaaaa", "a.py::test_one")
    make("bbbbbb", "a.py::test_two")

    with pytest.raises(FailureAmbiguous) as caught:
        failures.get("test_")

    assert "aaaaaa" in caught.value.detail
    assert "bbbbbb" in caught.value.detail


def test_unknown_id_names_near_matches(failures: Failures, make: Make) -> None:
    make("aaaaab", "tests/test_a.py::test_install")

    with pytest.raises(FailureNotFound, match="aaaaab"):
        failures.get("aaaaac")
    with pytest.raises(FailureNotFound, match="test_install"):
        failures.get("tests/test_a.py::test_instal_")


@pytest.mark.parametrize("name", ["nothing", "../store", "", ".", "a/b"])
def test_removing_what_is_not_there_fails(failures: Failures, make: Make, name: str) -> None:
    make("aaaaaa")

    with pytest.raises(FailureNotFound):
        failures.remove(name)

    assert len(failures.list()) == 1


def test_removed_failure_is_gone(failures: Failures, make: Make) -> None:
    make("aaaaaa")

    failures.remove("aaaaaa")

    assert failures.list() == []
    assert list((failures.store.root / "trash").iterdir()) == []


def test_sweep_removes_the_oldest_beyond_the_count(failures: Failures, make: Make) -> None:
    for name in ("aaaaaa", "bbbbbb", "cccccc"):
        make(name)

    removed = failures.sweep(2, 1 << 40)

    assert removed == ["aaaaaa"]
    assert [failure.id for failure in failures.list()] == ["cccccc", "bbbbbb"]


def test_sweep_by_size_keeps_the_newest(failures: Failures, make: Make) -> None:
    make("aaaaaa", size=10)
    make("bbbbbb", size=1000)

    assert failures.sweep(20, 100) == ["aaaaaa"]
    assert failures.sweep(0, 1) == []


def test_sweep_leaves_other_projects_alone(failures: Failures, make: Make) -> None:
    make("aaaaaa", rootdir="/other")
    make("bbbbbb")
    make("cccccc")

    assert failures.sweep(1, 1 << 40, project=Path("/project")) == ["bbbbbb"]


def test_sweep_goes_on_after_another(
    failures: Failures, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("aaaaaa", "bbbbbb", "cccccc"):
        make(name)
    listed = failures.list()
    failures.remove("bbbbbb")
    monkeypatch.setattr(Failures, "list", lambda *_: listed)

    failures.sweep(1, 1 << 40)

    assert [path.name for path in failures.store.failures_dir.iterdir()] == ["cccccc"]


def test_summary_line_is_as_documented() -> None:
    nodeid = "tests/test_x.py::test_install"

    assert summary_line(record(CONTAINER, nodeid=nodeid)) == (
        "abc123  tests/test_x.py::test_install  1 change, 2.0 MiB   pytest-rootfs shell abc123"
    )


def test_summary_line_counts_every_container() -> None:
    line = summary_line(record(CONTAINER, CONTAINER))

    assert (
        line == "abc123  t.py::t  2 changes in 2 containers, 4.0 MiB   pytest-rootfs shell abc123"
    )


def test_summary_line_without_files_leads_to_show() -> None:
    bare = KeptContainer(name="rootfs", image=IMAGE, gaps=("files: disk full",))

    assert summary_line(record(bare)) == (
        "abc123  t.py::t  files not kept   pytest-rootfs show abc123"
    )
