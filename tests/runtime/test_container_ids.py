"""Containers of users who have many, few or no subordinate ids, and whose the files are."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from features import needs
from id_hosts import Host
from otherwise import NOBODY, PLACE, run_otherwise

from pytest_rootfs.runtime.subordinate_ids import User

if TYPE_CHECKING:
    from conftest import Start

    from pytest_rootfs import Container

START = """
from pathlib import Path
from pytest_rootfs.engine import Engine, EngineSettings
from pytest_rootfs.errors import RootfsError
import os
store = Path(os.environ["PYTEST_ROOTFS_STORE"])
engine = Engine(EngineSettings(store=store, limits="off"), warn=print)
try:
    with engine.start("minimal") as container:
        print(engine.ids.mode)
        for user in (0, 1000, 5000):
            try:
                print(container.run(["id", "-u"], user=user).stdout.strip())
            except RootfsError as error:
                print(error)
        try:
            container.path("/etc").chown(0, 1000)
        except OSError as error:
            print(f"chown: {error.strerror}")
except RootfsError as error:
    print(error)
finally:
    engine.close()
"""


def run_as_nobody(host: Host, *, setup: str = "") -> list[str]:
    done = run_otherwise(["-c", START], files=host.files(), setup=setup)
    assert done.stderr == ""
    return done.stdout.splitlines()


@needs("root", "newuidmap", "userns")
@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "nobody:200000:65536\n",
        f"{NOBODY}:200000:65536\n",
        "nobody:200000:500\nnobody:200500:60000\nnobody:400000:60000\n",
        f"nobody:200000:65536\n{NOBODY}:200000:65536\n",
        "nobody:x:y\nnobody:200000:65536\n",
    ],
    ids=["name", "number", "several", "twice", "one malformed"],
)
def test_container_of_a_user_with_ranges(host: Host, text: str) -> None:
    host.give(text)

    assert run_as_nobody(host) == ["rootless", "0", "1000", "5000"]


@needs("root", "newuidmap", "userns")
@pytest.mark.slow
def test_container_of_a_user_with_few_ids(host: Host) -> None:
    host.give("nobody:200000:2000\n")

    lines = run_as_nobody(host)

    assert lines[:3] == ["rootless", "0", "1000"]
    assert lines[3:] == [
        "cannot run as user '5000': the container has no such id",
        "user nobody has 2001 ids, a container's users above 2000 do not exist",
        f"hint: {User(NOBODY, NOBODY, '/etc').add_ranges}",
    ]


@needs("root", "newuidmap", "userns")
@pytest.mark.slow
def test_container_of_a_user_with_a_single_id(host: Host) -> None:
    host.give("")

    lines = run_as_nobody(host)

    assert lines[-1].startswith(
        "chown: Invalid argument: uid 0, gid 1000 does not exist here (user nobody"
    )
    assert lines[:2] == ["rootless, single id", "0"]
    assert lines[2:5] == [
        "cannot run as user '1000': the container has no such id",
        "user nobody has no range in /etc/subuid",
        f"hint: {User(NOBODY, NOBODY, '/etc').add_ranges}",
    ]


@needs("root", "newuidmap", "userns")
@pytest.mark.slow
def test_words_of_a_refusing_newuidmap_are_shown(host: Host) -> None:
    host.give("nobody:200000:65536\n")
    script = START.replace(
        "try:",
        f"""
from pytest_rootfs.runtime import ids
engine._ids = ids.find_ids(uid={NOBODY}, gid={NOBODY}, subid_folder="{PLACE}/etc")
try:""",
        1,
    )

    setup = f"mkdir {PLACE}/etc; cd {PLACE}/etc; echo nobody:700000:65536 | tee subuid > subgid"
    done = run_otherwise(["-c", script], files=host.files(), setup=setup)

    what, detail, hint = done.stdout.splitlines()
    assert done.stderr == ""
    assert what == "newuidmap refused to map the ids of user nobody"
    assert detail.endswith("newuidmap: uid range [1-65536) -> [700000-765535) not allowed")
    assert hint.startswith("hint: `getsubids nobody`")


MODULE = """
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
struct range { unsigned long start, count; };
int shadow_subid_has_range(const char *owner, unsigned long start, unsigned long count, int type,
                           bool *result) {
    *result = !strcmp(owner, "nobody") && start >= 500000 && start + count <= 565536;
    return 0;
}
int shadow_subid_list_owner_ranges(const char *owner, int type, struct range **ranges, int *count) {
    *count = !strcmp(owner, "nobody");
    *ranges = malloc(sizeof **ranges);
    **ranges = (struct range){500000, 65536};
    return 0;
}
int shadow_subid_find_subid_owners(unsigned long id, int type, uid_t **uids, int *count) {
    *count = 0;
    return 0;
}
"""
"""A module for subordinate ids, as FreeIPA's sssd has one; shadow's lib/subid.h."""


@pytest.fixture(scope="module")
def module_setup(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Shell text that adds the module to the folder where programs find their libraries."""
    folder = tmp_path_factory.mktemp("module")
    folder.chmod(0o755)
    argv = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(folder / "libsubid_test.so")]
    subprocess.run(argv, input=MODULE, text=True, check=True)
    libraries = "/usr/lib/$(gcc -print-multiarch)"
    return f"mount -t overlay -o lowerdir={folder}:{libraries} overlay {libraries}"


@needs("root", "gcc", "getsubids", "newuidmap", "userns")
@pytest.mark.slow
def test_ids_of_a_name_service_module(host: Host, module_setup: str) -> None:
    host.give("nobody:200000:65536\n")  # newuidmap asks the module alone
    host.write("nsswitch.conf", "passwd: files\nsubid:  test\n")
    show = f"{START}\nfrom pytest_rootfs.runtime import ids; print(ids.find_ids().uid_map[1:])"

    done = run_otherwise(["-c", show], files=host.files(), setup=module_setup)

    assert done.stderr == ""
    assert done.stdout.splitlines() == ["rootless", "0", "1000", "5000", "((1, 500000, 65535),)"]


@needs("root", "userns")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("lacking", "mode", "users"),
    [
        ("-sys_admin", "rootless", ["0", "1000", "5000"]),
        ("-sys_admin,-setuid", "rootless, single id", ["0"]),
    ],
)
def test_root_that_may_not_mount(lacking: str, mode: str, users: list[str]) -> None:
    done = run_otherwise(
        ["-c", START], uid=0, privileges=[f"--bounding-set={lacking}", f"--inh-caps={lacking}"]
    )

    assert done.stderr == ""
    assert done.stdout.splitlines()[: 1 + len(users)] == [mode, *users]


def test_owner_that_does_not_exist_is_told(empty: Container) -> None:
    empty.path("/file").touch()

    with pytest.raises(OSError, match="uid 70000 does not exist here") as failure:
        empty.path("/file").chown(70000)

    assert failure.value.errno == errno.EINVAL


@pytest.mark.slow
def test_files_in_a_writable_mount_belong_to_the_user(start: Start, tmp_path: Path) -> None:
    container = start(mounts=[(tmp_path, "/data", "rw")])

    container.run("touch /data/made; mkdir -p /data/folder/below; ln -s made /data/link")
    container.path("/data/written").write_text("x")

    owners = {(path.lstat().st_uid, path.lstat().st_gid) for path in tmp_path.rglob("*")}
    assert owners == {(os.getuid(), os.getgid())}
    assert len(list(tmp_path.rglob("*"))) == 5


@needs("root")
def test_mount_keeps_the_owners_of_the_host(start: Start, tmp_path: Path) -> None:
    (tmp_path / "theirs").touch()
    os.chown(tmp_path / "theirs", 1000, 1001)
    tmp_path.chmod(0o777)
    container = start(mounts=[(tmp_path, "/data", "rw")])

    container.run(["touch", "/data/made"], user="1000:1001")

    assert container.run(["stat", "-c", "%u:%g", "/data/theirs"]).stdout == "1000:1001\n"
    made = (tmp_path / "made").stat()
    assert (made.st_uid, made.st_gid) == (1000, 1001)
