"""What of the kernel's files is hidden or read-only, and whose ids are whose."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from features import needs
from process_table import children_of

from pytest_rootfs.image import Image
from pytest_rootfs.runtime import plan
from pytest_rootfs.runtime.container import Container

if TYPE_CHECKING:
    from conftest import Start

LAST_ID = 65535


@pytest.fixture(params=[False, True], ids=["writable", "readonly"])
def either(start: Start, request: pytest.FixtureRequest) -> Container:
    """Give a container, and one whose root file system is read-only."""
    return start(readonly=request.param)


@pytest.mark.parametrize("path", plan.MASKED_FILES)
def test_masked_file_is_empty(either: Container, path: str) -> None:
    if not Path(f"/{path}").exists():
        assert not either.path(f"/{path}").exists()
        return
    assert either.run(["cat", f"/{path}"], check=False).stdout == ""
    assert either.path(f"/{path}").stat().st_rdev == os.makedev(1, 3)


@pytest.mark.parametrize("path", plan.MASKED_DIRS)
def test_masked_folder_is_empty(either: Container, path: str) -> None:
    if not Path(f"/{path}").is_dir():
        assert not either.path(f"/{path}").exists()
        return
    assert either.run(["ls", "-A", f"/{path}"]).stdout == ""
    assert "Read-only" in either.run(["mkdir", f"/{path}/x"], check=False).stderr


@pytest.mark.parametrize("path", plan.READONLY)
def test_folder_of_the_kernel_is_readonly(either: Container, path: str) -> None:
    if not Path(f"/{path}").exists():
        assert not either.path(f"/{path}").exists()
        return
    options = either.run(["grep", f" /{path} ", "/proc/self/mounts"]).stdout.split()[3]

    assert options.split(",")[0] == "ro"


def test_own_entries_of_proc_are_writable(container: Container) -> None:
    done = container.run("echo 500 > /proc/$$/oom_score_adj; cat /proc/$$/oom_score_adj")

    assert done.stdout == "500\n"


@needs("umount", "unshare")
def test_masks_need_a_right_that_no_command_has(start: Start) -> None:
    image = Image("minimal").add_binary("/usr/bin/umount").add_binary("/usr/bin/unshare")
    container = start(image)

    umount = container.run(["umount", "/proc/sys"], check=False)
    unshare = container.run(["unshare", "-m", "true"], check=False)

    assert "must be superuser" in umount.stderr or "not permitted" in umount.stderr
    assert "not permitted" in unshare.stderr


@needs("unshare")
def test_user_namespaces_cannot_be_allowed_again(start: Start) -> None:
    container = start(Image("minimal").add_binary("/usr/bin/unshare"), capabilities=["+SYS_ADMIN"])
    container.run("echo 10 > /proc/sys/user/max_user_namespaces", check=False)

    done = container.run(["unshare", "-U", "true"], check=False)

    assert "No space left on device" in done.stderr


@needs("subids")
def test_ids_of_a_container_are_its_own(container: Container) -> None:
    inside = container.run(["cat", "/proc/self/uid_map"]).stdout.split()
    [pid] = container.run("echo $PPID").stdout.split()

    assert inside[0] == "0" and pid == "1"
    outside = Path(f"/proc/{container.pid}/uid_map").read_text().split()
    assert outside[0] == "0" and int(outside[1]) >= 1000


@needs("root")
def test_root_of_a_container_is_nobody_here(container: Container) -> None:
    with container.popen(["sleep", "100"]) as process:
        owners = {Path(f"/proc/{pid}").stat().st_uid for pid in children_of(container.pid)}
        process.kill()
        process.wait()

    assert owners and all(owner > LAST_ID for owner in owners)


@needs("root")
@pytest.mark.parametrize(("uid", "seen"), [(0, 0), (7, 7), (LAST_ID, LAST_ID), (70000, 65534)])
def test_owner_on_the_host_is_the_owner_inside(
    start: Start, tmp_path: Path, uid: int, seen: int
) -> None:
    (tmp_path / "x").touch()
    os.chown(tmp_path / "x", uid, uid)

    container = start(mounts=[(tmp_path, "/mnt/here"), (tmp_path / "x", "/mnt/x")])

    assert (
        container.run(["stat", "-c%u:%g", "/mnt/here/x", "/mnt/x"]).stdout == f"{seen}:{seen}\n" * 2
    )


@needs("root")
def test_owner_inside_is_the_owner_on_the_host(start: Start, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    container = start(mounts=[(tmp_path, "/mnt/here", "rw")])

    container.run("touch /mnt/here/mine", user="12:13")
    container.run("touch /mnt/here/theirs; chown 14:15 /mnt/here/theirs")

    owners = {path.name: (path.stat().st_uid, path.stat().st_gid) for path in tmp_path.iterdir()}
    assert owners == {"mine": (12, 13), "theirs": (14, 15)}


@needs("ordinary user", "subids")
def test_only_the_users_own_files_are_roots_inside(start: Start, tmp_path: Path) -> None:
    (tmp_path / "x").touch()

    container = start(mounts=[(tmp_path, "/mnt/here"), ("/etc/hostname", "/mnt/x")])

    assert container.run(["stat", "-c%u", "/mnt/here/x", "/mnt/x"]).stdout == "0\n65534\n"
