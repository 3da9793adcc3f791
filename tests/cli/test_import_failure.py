"""`import-failure`: a failure that was exported is the same in another store."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from failure_archives import RECORD, with_record
from features import needs
from keeping import forget, keep

from pytest_rootfs import Failure, failures
from pytest_rootfs.store.store import Store

if TYPE_CHECKING:
    from pytest_rootfs.engine import Engine

Call = Callable[..., Any]  # Any: a Result of conftest.py
PROGRAM = [sys.executable, "-m", "pytest_rootfs"]

pytestmark = needs("userns")


@needs("subids")
@pytest.mark.slow
def test_imported_failure_is_the_same(
    archive: Path, failed: Failure, call: Call, elsewhere: Path
) -> None:
    imported = call("import-failure", str(archive))

    assert (imported.status, imported.out) == (0, f"{failed.id}\n")
    assert Failure.from_json(json.loads(call("show", failed.id, "--json").out)) == failed
    assert call("cat", failed.id, "new dir/new.txt").out == "first\nsecond without end"
    assert "+line fifty\n" in call("diff", failed.id).out
    command = ["sh", "-c", "id -un; pwd; exit 4"]
    entered = call("exec", failed.id, "--", *command)
    assert (entered.status, entered.out) == (4, "nobody\n/srv\n")


@pytest.mark.slow
def test_imported_failure_survives_collection(
    archive: Path, failed: Failure, call: Call, elsewhere: Path
) -> None:
    call("import-failure", str(archive))

    assert call("gc", "--all").status == 0

    assert "+line fifty\n" in call("diff", failed.id).out


def test_failure_from_a_missing_project_joins_this_one(
    archive: Path, failed: Failure, call: Call, elsewhere: Path
) -> None:
    moved = with_record(archive, rootdir="/no/such/project")

    call("import-failure", str(moved))

    listed = json.loads(call("failures", "--json").out)
    assert [(each["id"], each["rootdir"]) for each in listed] == [(failed.id, str(elsewhere))]


def test_project_of_an_imported_failure_can_be_said(
    archive: Path, call: Call, elsewhere: Path, tmp_path: Path
) -> None:
    call("import-failure", str(archive), "--rootdir", str(tmp_path / "mine"))

    assert json.loads(call("failures", "--all", "--json").out)[0]["rootdir"] == f"{tmp_path}/mine"


def test_second_import_changes_nothing(archive: Path, call: Call, elsewhere: Path) -> None:
    call("import-failure", str(archive))

    result = call("import-failure", str(archive))

    assert result.status == 0
    assert "is here already" in result.err
    assert len(json.loads(call("failures", "--all", "--json").out)) == 1


def test_taken_id_is_changed(archive: Path, failed: Failure, call: Call, elsewhere: Path) -> None:
    call("import-failure", str(archive))
    other = with_record(archive, nodeid="other.py::test_other")

    result = call("import-failure", str(other))

    assert result.status == 0
    assert result.out.strip() != failed.id
    assert f"another failure is called {failed.id}" in result.err
    assert call("cat", "other.py", "new dir/new.txt").status == 0


def test_files_of_hooks_travel_along(
    failed: Failure, call: Call, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    assert failed.folder is not None
    (failed.folder / "logs").mkdir()
    (failed.folder / "logs" / "trace.txt").write_text("seen\n")
    call("export", "last", str(tmp_path / "failure.tar"))
    shutil.rmtree(failed.folder / "logs")
    request.getfixturevalue("elsewhere")

    call("import-failure", str(tmp_path / "failure.tar"))

    kept = tmp_path / "other-store" / "failures" / failed.id / "logs" / "trace.txt"
    assert kept.read_text() == "seen\n"
    assert "logs" in call("show", failed.id).out


def test_failure_is_read_from_a_pipe(archive: Path, failed: Failure, elsewhere: Path) -> None:
    done = subprocess.run(
        [*PROGRAM, "import-failure", "-"],
        input=archive.read_bytes(),
        capture_output=True,
        check=True,
    )

    assert done.stdout.decode() == f"{failed.id}\n"


def test_mounts_of_the_other_host_are_left_out(
    archive: Path, failed: Failure, call: Call, elsewhere: Path
) -> None:
    options = {"mounts": [{"source": "/etc", "target": "/srv/etc", "is_readonly": True}]}

    call("import-failure", str(with_record(archive, options=options)))

    assert "missing   mount /srv/etc: /etc is on the host that" in call("show", failed.id).out
    assert call("ls", failed.id, "/srv/etc").status == 3


def test_network_of_the_other_host_is_left_out(
    archive: Path, failed: Failure, call: Call, elsewhere: Path
) -> None:
    call("import-failure", str(with_record(archive, options={"network": "host"})))

    done = call("exec", failed.id, "--", "cat", "/proc/net/dev")

    assert "missing   network: it was that of the host" in call("show", failed.id).out
    assert [line.split(":")[0].strip() for line in done.out.splitlines()[2:]] == ["lo"]


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["gzip", "-c"], marks=needs("gzip")),
        pytest.param(["zstd", "-qc"], marks=needs("zstd")),
    ],
)
def test_compressed_archive_is_read(
    command: list[str], archive: Path, failed: Failure, call: Call, elsewhere: Path
) -> None:
    packed = archive.with_name("packed")
    with packed.open("wb") as out:
        subprocess.run([*command, str(archive)], stdout=out, check=True)

    imported = call("import-failure", str(packed))

    assert (imported.status, imported.out) == (0, f"{failed.id}\n")


def foreign(archive: Path) -> Path:
    """Write an archive anew, as one of a machine of another architecture."""
    with tarfile.open(archive) as tar:
        files = {each.name: tar.extractfile(each) for each in tar if each.isfile()}
        contents = {name: file.read() for name, file in files.items() if file}
    record = json.loads(contents[RECORD])
    manifest = json.loads(contents.pop(blob_name(record["manifest"])))
    config = json.loads(contents.pop(blob_name(manifest["config"]["digest"])))
    config_text = json.dumps({**config, "architecture": "s390x"}).encode()
    manifest["config"] |= {"digest": digest_of(config_text), "size": len(config_text)}
    manifest_text = json.dumps(manifest).encode()
    record["manifest"] = digest_of(manifest_text)
    for text in (config_text, manifest_text):
        contents[blob_name(digest_of(text))] = text
    contents[RECORD] = json.dumps(record).encode()
    target = archive.with_name("foreign.tar")
    with tarfile.open(target, "w") as out:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            out.addfile(member, io.BytesIO(content))
    return target


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def blob_name(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


@pytest.mark.slow
def test_failure_of_another_architecture_is_told(
    archive: Path, failed: Failure, call: Call, elsewhere: Path
) -> None:
    imported = call("import-failure", str(foreign(archive)))

    assert imported.status == 0
    assert "note: programs: they are for linux/s390x, and this machine is linux/" in imported.err
    assert "missing   programs: they are for linux/s390x" in call("show", failed.id).out
    assert call("cat", failed.id, "new dir/new.txt").out == "first\nsecond without end"
    assert "+line fifty\n" in call("diff", failed.id).out


def test_other_containers_travel_along(
    engine: Engine, call: Call, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine.start("minimal", name="app") as app, engine.start("minimal", name="db") as db:
        db.path("/srv/table").write_text("row\n")
        failure = keep(engine, app, db, rootdir=project)
    call("export", "last", str(tmp_path / "two.tar"))
    forget(engine, failure)
    monkeypatch.setenv("PYTEST_ROOTFS_STORE", str(tmp_path / "other-store"))

    call("import-failure", str(tmp_path / "two.tar"))

    assert call("cat", "last", "-c", "db", "/srv/table").out == "row\n"
    with Store.open(tmp_path / "other-store") as store:
        assert failures.Failures(store).get(failure.id) == failure
