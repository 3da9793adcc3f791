"""`export`: what podman and skopeo, the real ones, find in an archive."""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from features import needs
from keeping import forget, keep
from polling import wait_until

from pytest_rootfs import Failure, Image

if TYPE_CHECKING:
    from pytest_rootfs.engine import Engine

Call = Callable[..., Any]  # Any: a Result of conftest.py
PROGRAM = [sys.executable, "-m", "pytest_rootfs"]

pytestmark = needs("userns")


@pytest.fixture
def podman(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Call podman on a storage of its own."""
    short = tempfile.mkdtemp(prefix="pod", dir="/tmp")  # podman refuses long names of runroot
    # the last is not in the storage by default, but shared: two resets at once disturb each other
    storage = ["--root", f"{short}/root", "--runroot", f"{short}/run", "--tmpdir", f"{short}/tmp"]
    env = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)}

    def run_podman(*words: str) -> subprocess.CompletedProcess[str]:
        command = ["podman", *storage, "--storage-driver", "vfs", *words]
        return subprocess.run(command, capture_output=True, text=True, env=env, check=False)

    def call_podman(*words: str) -> str:
        done = run_podman(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    yield call_podman
    # it may find a folder "not empty" in which podman itself still writes: then once more
    wait_until(lambda: run_podman("system", "reset", "--force").returncode == 0)
    shutil.rmtree(short)


@needs("skopeo")
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["oci", "docker"])
def test_skopeo_copies_the_archive(kind: str, failed: Failure, call: Call, tmp_path: Path) -> None:
    archive, layout = tmp_path / "failure.tar", tmp_path / "layout"

    assert call("export", "last", str(archive), "--format", kind).status == 0
    source = f"{kind}-archive:{archive}"
    command = ["skopeo", "--insecure-policy", "copy", "-q", source, f"oci:{layout}:copied"]
    subprocess.run(command, check=True)

    inspected = subprocess.run(
        ["skopeo", "inspect", "--config", f"oci:{layout}:copied"], capture_output=True, check=True
    )
    config = json.loads(inspected.stdout)
    assert config["rootfs"]["diff_ids"] == [*failed.image.layers, failed.layer]
    assert config["config"]["User"] == "nobody"
    assert config["config"]["WorkingDir"] == "/srv"
    assert "FROM_IMAGE=1" in config["config"]["Env"]


@needs("podman", "root")
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["oci", "docker"])
def test_podman_shows_the_same_files(
    kind: str, failed: Failure, call: Call, tmp_path: Path, podman: Callable[..., str]
) -> None:
    archive = tmp_path / "failure.tar"
    call("export", "last", str(archive), "--format", kind)

    podman("load", "-q", "-i", str(archive))
    name = f"localhost/pytest-rootfs:{failed.id}"
    srv = Path(podman("image", "mount", name).split()[-1]) / "srv"

    assert sorted(path.name for path in srv.iterdir()) == [
        "app.conf",
        "blob",
        "link",
        "new dir",
        "script",
    ]
    assert "line fifty" in (srv / "app.conf").read_text()
    assert (srv / "new dir" / "new.txt").read_text() == "first\nsecond without end"
    assert (srv / "script").stat().st_mode & 0o777 == 0o755
    assert os.readlink(srv / "link") == "/etc/passwd"


@needs("podman", "runc", "root")
@pytest.mark.slow
def test_podman_runs_the_failure(
    failed: Failure, call: Call, tmp_path: Path, podman: Callable[..., str]
) -> None:
    call("export", "last", str(tmp_path / "failure.tar"))
    listing = [
        "sh",
        "-c",
        "id -un; pwd; echo $FROM_MARK; ls -ln --time-style=+%s; cat 'new dir/new.txt'",
    ]

    podman("load", "-q", "-i", str(tmp_path / "failure.tar"))
    there = podman(
        *("--runtime", "runc", "--cgroup-manager", "cgroupfs"),
        *("run", "--rm", "--network", "none", "--log-driver", "none"),
        *("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"),  # no rights for more
        *(f"localhost/pytest-rootfs:{failed.id}", *listing),
    )

    assert there == call("exec", "last", "--", *listing).out


def test_layer_is_a_tar_of_the_changes(failed: Failure, call: Call, tmp_path: Path) -> None:
    archive = tmp_path / "layer.tar"

    assert call("export", "last", str(archive), "--format", "layer").status == 0

    with tarfile.open(archive) as tar:
        names = {f"/{member.name.strip('/')}" for member in tar if not member.isdir()}
    assert names == {
        "/srv/app.conf",
        "/srv/blob",
        "/srv/link",
        "/srv/new dir/new.txt",
        "/srv/.wh.old.txt",
        "/srv/script",
    }
    assert archive.stat().st_mode & 0o077 == 0o044
    assert list(tmp_path.glob(".pytest-rootfs-*")) == []


def test_export_to_standard_output(failed: Failure) -> None:
    done = subprocess.run(
        [*PROGRAM, "export", "last", "-", "--format", "layer"], capture_output=True, check=True
    )

    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        assert "srv/link" in [member.name.strip("/") for member in tar]


def test_export_into_nowhere_is_not_found(failed: Failure, call: Call, tmp_path: Path) -> None:
    result = call("export", "last", str(tmp_path / "no" / "file.tar"))

    assert result.status == 3
    assert result.err == (
        f"error: there is no folder {tmp_path}/no\nhint: make it first: mkdir -p {tmp_path}/no\n"
    )


def test_export_replaces_a_file_at_once(failed: Failure, call: Call, tmp_path: Path) -> None:
    archive = tmp_path / "layer.tar"
    archive.write_text("old")

    call("export", "last", str(archive), "--format", "layer")

    assert archive.stat().st_size == failed.size


def test_export_pours_into_a_pipe(failed: Failure, call: Call, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    command = ["timeout", "20", "tar", "-tf", str(pipe)]  # it waits for a writer
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
        status = call("export", "last", str(pipe), "--format", "layer").status
        listed = reader.communicate(timeout=20)[0]

    assert (status, reader.returncode, pipe.is_fifo()) == (0, 0, True)
    assert "srv/app.conf\n" in listed
    assert list(tmp_path.glob(".pytest-rootfs-*")) == []


@needs("root")
@pytest.mark.parametrize("words", [["export", "last"], ["export-image", "scratch"]])
def test_export_leaves_a_device_a_device(
    words: list[str], failed: Failure, call: Call, tmp_path: Path
) -> None:
    device = tmp_path / "null"
    os.mknod(device, 0o600 | stat.S_IFCHR, os.makedev(1, 3))

    assert call(*words, str(device)).status == 0

    assert device.is_char_device()


@needs("root")
@pytest.mark.parametrize("words", [["export", "last"], ["export-image", "scratch"]])
def test_full_disk_names_the_archive(
    words: list[str], failed: Failure, call: Call, tmp_path: Path
) -> None:
    full = tmp_path / "full"  # never the machine's own, which a defect could damage
    os.mknod(full, 0o600 | stat.S_IFCHR, os.makedev(1, 7))

    result = call(*words, str(full))

    assert (result.status, result.err.splitlines()[-2:]) == (
        1,
        [
            f"error: cannot write {full}: No space left on device",
            "hint: give a FILE where there is room",
        ],
    )


def test_export_follows_a_link(failed: Failure, call: Call, tmp_path: Path) -> None:
    (tmp_path / "link.tar").symlink_to("real.tar")

    assert call("export", "last", str(tmp_path / "link.tar"), "--format", "layer").status == 0

    assert (tmp_path / "link.tar").is_symlink()
    assert tarfile.is_tarfile(tmp_path / "real.tar")


@pytest.mark.parametrize("words", [["export", "last"], ["export-image", "scratch"]])
def test_export_onto_a_folder_is_refused(
    words: list[str], failed: Failure, call: Call, tmp_path: Path
) -> None:
    result = call(*words, str(tmp_path))

    assert (result.status, result.err) == (
        1,
        f"error: cannot write to '{tmp_path}': it is a folder\nhint: give a file name\n",
    )


@pytest.fixture
def host_failure(engine: Engine, project: Path) -> Iterator[Failure]:
    """Keep a failure on the image of the host's own files."""
    with engine.start(Image.host(), name="host") as container:
        container.path("/opt/added").write_text("new\n")
        failure = keep(engine, container, rootdir=project)
    yield failure
    forget(engine, failure)


def test_host_image_exports_its_layer_only(
    host_failure: Failure, call: Call, tmp_path: Path
) -> None:
    refused = call("export", "last", str(tmp_path / "all.tar"))
    layer = call("export", "last", str(tmp_path / "layer.tar"), "--format", "layer")

    assert refused.status == 1
    assert "hint: what changed can be: pytest-rootfs export last" in refused.err
    assert "--format layer" in refused.err
    assert layer.status == 0


def test_failure_on_the_host_image_can_be_entered(host_failure: Failure, call: Call) -> None:
    assert "+++ b/opt/added\n@@ -0,0 +1 @@\n+new\n" in call("diff", "last").out
    assert call("exec", "last", "--", "cat", "/opt/added").out == "new\n"
