"""`doctor` inside podman: with its defaults, with the options of the repair, privileged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from features import needs

import pytest_rootfs
from pytest_rootfs import images as recipes

pytestmark = [needs("root", "podman", "runc"), pytest.mark.slow]

PLACE = "/mnt"
LINKS = {name: f"usr/{name}" for name in ("bin", "sbin", "lib", "lib32", "lib64")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a root folder around the host's /usr, and the package beside it."""
    folder = tmp_path_factory.mktemp("podman")
    root = folder / "root"
    for name in ("dev", "etc", "proc", "root", "run", "sys", "tmp", "usr", "var/tmp"):
        (root / name).mkdir(parents=True)
    for name, target in LINKS.items():
        (root / name).symlink_to(target)
    for name in ("passwd", "group"):
        shutil.copy(f"/etc/{name}", root / "etc")
    package, images = (next(iter(each.__path__)) for each in (pytest_rootfs, recipes))
    shutil.copytree(package, folder / "package/pytest_rootfs")
    shutil.copytree(images, folder / "package/pytest_rootfs/images", dirs_exist_ok=True)
    return folder


def examined_in_podman(folder: Path, *options: str) -> tuple[int, dict[str, dict[str, str]]]:
    """Run it in a mount namespace of its own, so that no mount of podman's outlives it.

    There the folder is PLACE, as podman refuses long paths.
    """
    volumes = {"/usr": "/usr", sys.base_prefix: sys.base_prefix, f"{PLACE}/package": "/package"}
    done = subprocess.run(
        [
            *("unshare", "--mount", "sh", "-c", f'mount --bind "$0" {PLACE} && exec "$@"', folder),
            *("podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs"),
            *("--root", f"{PLACE}/store", "--runroot", f"{PLACE}/run"),
            *("run", "--rm", "--network", "none", "--log-driver", "none", *options),
            *("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"),  # no rights for more
            *(f"--volume={source}:{target}:ro" for source, target in volumes.items()),
            *("--env", "PYTHONPATH=/package", "--env", "PYTHONDONTWRITEBYTECODE=1"),
            *("--env", "PYTEST_ROOTFS_STORE=/var/tmp/store", "--rootfs", f"{PLACE}/root"),
            *(os.path.realpath(sys.executable), "-m", "pytest_rootfs", "doctor", "--json"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, {each["name"]: each for each in json.loads(done.stdout)}


REPAIR = ("--security-opt", "seccomp=unconfined", "--security-opt", "unmask=ALL")


def test_podman_with_its_defaults(folder: Path) -> None:
    status, checks = examined_in_podman(folder)

    assert status == 1
    assert checks["environment"]["found"] == "inside podman"
    assert checks["user namespaces"]["state"] == "ok"
    for name in ("hostname", "/proc"):
        assert checks[name]["state"] == "missing"
        assert checks[name]["repair"].startswith(f"podman run {' '.join(REPAIR)} …")
    assert checks["container"]["state"] == "not tried"


def test_podman_with_the_options_of_the_repair(folder: Path) -> None:
    status, checks = examined_in_podman(folder, *REPAIR)

    assert status == 0
    assert checks["ids"]["found"].startswith("rootless; container root is uid 0 here")
    assert "mounted read-only" in checks["cgroups"]["found"]
    assert checks["container"]["state"] == "ok"


def test_privileged_podman(folder: Path) -> None:
    status, checks = examined_in_podman(folder, "--privileged")

    assert status == 0
    assert checks["ids"]["found"].startswith("rootful")
    assert checks["container"]["state"] == "ok"
