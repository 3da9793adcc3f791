"""Which host ids the users of a container become, and what is told where some are missing."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from features import needs
from otherwise import NOBODY, PLACE, run_otherwise

from pytest_rootfs.runtime import ids, subordinate_ids
from pytest_rootfs.runtime.gaps import Gap
from pytest_rootfs.runtime.ids import Ids
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


class Host:
    """A folder in place of /etc, for a user that the machine really has."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, text: str) -> None:
        """Write one file."""
        (self.folder / name).write_text(text)

    def give(self, text: str) -> None:
        """Write the same ranges for users and groups."""
        for name in ("subuid", "subgid"):
            self.write(name, text)

    def ids(self, uid: int = NOBODY) -> Ids:
        """Choose the maps on this host."""
        return ids.find_ids(uid=uid, gid=uid, subid_folder=str(self.folder))

    def files(self) -> dict[str, Path]:
        """Return what lies over the files of the machine."""
        return {f"/etc/{path.name}": path for path in self.folder.iterdir()}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    (tmp_path / "etc").mkdir()
    return Host(tmp_path / "etc")


@pytest.mark.parametrize("owner", ["nobody", NOBODY])
@needs("newuidmap")
def test_range_by_name_or_number(host: Host, owner: str | int) -> None:
    host.give(f"{owner}:200000:65536\n")

    found = host.ids()

    assert (found.mode, found.needs_helper, found.gap.reason) == ("rootless", True, "")
    assert found.uid_map == found.gid_map == ((0, NOBODY, 1), (1, 200000, 65535))


@needs("newuidmap")
def test_several_ranges_follow_each_other(host: Host) -> None:
    host.give(f"nobody:200000:60000\nother:1:2\n{NOBODY}:300000:60000\n")

    found = host.ids()

    assert found.uid_map == ((0, NOBODY, 1), (1, 200000, 60000), (60001, 300000, 5535))
    assert found.count == 65536


@needs("newuidmap")
def test_too_few_ids_are_told(host: Host) -> None:
    host.write("subuid", "nobody:200000:65536\n")
    host.write("subgid", "nobody:200000:999\n")

    found = host.ids()

    assert (found.mode, found.count) == ("rootless", 1000)
    assert found.gap.reason == (
        "user nobody has 1000 ids, a container's users above 999 do not exist"
    )
    assert "--add-subgids" in found.gap.repair


@needs("newuidmap")
@pytest.mark.parametrize(
    ("subuid", "subgid", "reason", "repair"),
    [
        (None, None, "user nobody has no range in {etc}/subuid", "--add-subuids"),
        ("nobody:7:8\n", "", "user nobody has no range in {etc}/subgid", "--add-subgids"),
        (
            "nobody:x:65536\n",
            "nobody:7:8\n",
            "user nobody has no range in {etc}/subuid, its line 'nobody:x:65536' is malformed",
            "nobody:100000:65536",
        ),
        (
            "nobody:65000:1000\n",
            "nobody:7:8\n",
            "the range 65000:1000 in {etc}/subuid holds uid 65534 of nobody itself",
            "--del-subuids 65000-65999 --add-subuids",
        ),
        (
            "nobody:7:8\n",
            "nobody:65534:1\n",
            "the range 65534:1 in {etc}/subgid holds gid 65534 of nobody itself",
            "--del-subgids 65534-65534 --add-subgids",
        ),
    ],
)
def test_why_there_is_a_single_id(
    host: Host, subuid: str | None, subgid: str | None, reason: str, repair: str
) -> None:
    for name, text in (("subuid", subuid), ("subgid", subgid)):
        if text is not None:
            host.write(name, text)

    found = host.ids()

    assert found.uid_map == found.gid_map == ((0, NOBODY, 1),)
    assert (found.is_single, found.count) == (True, 1)
    assert found.gap.reason == reason.format(etc=host.folder)
    assert repair in found.gap.repair


def test_file_that_cannot_be_read_is_told(host: Host) -> None:
    (host.folder / "subuid").mkdir()

    gap = host.ids().gap

    assert gap.reason == f"{host.folder}/subuid cannot be read: Is a directory"


def test_user_without_an_entry_is_told(host: Host) -> None:
    host.give("54321:200000:65536\n")

    gap = host.ids(54321).gap

    assert gap.reason.startswith("uid 54321 has no entry in /etc/passwd")
    assert gap.repair == "sudo useradd --uid 54321 NAME"


def test_root_uses_its_own_whole_range(host: Host) -> None:
    host.give("root:100000:30000\n0:200000:40000\n")

    found = host.ids(0)

    assert found.mode == "rootful"
    assert found.uid_map == ((0, 100000, 30000), (30000, 200000, 35536))


@pytest.mark.parametrize("text", ["", "root:100000:65535\n", "root:x:y\n"])
def test_root_without_a_whole_range_uses_a_high_one(host: Host, text: str) -> None:
    host.give(text)

    found = host.ids(0)

    assert found.uid_map == found.gid_map == ((0, *ids.ROOT_FALLBACK),)
    assert not found.gap


def helper_gap(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Gap:
    monkeypatch.setattr(subordinate_ids, "_search_path", lambda: str(folder))
    return subordinate_ids.helper_gap(User.find(NOBODY, NOBODY, "/etc"))


def test_missing_newuidmap_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gap = helper_gap(monkeypatch, tmp_path)

    assert gap.reason == "newuidmap is missing"
    assert gap.repair.startswith("sudo apt-get install uidmap")


@needs("newuidmap")
def test_newuidmap_without_privilege_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program, _ = (
        shutil.copy(shutil.which(name) or "", tmp_path) for name in subordinate_ids.HELPERS
    )
    os.chmod(program, 0o755)

    gap = helper_gap(monkeypatch, tmp_path)

    assert gap.reason == f"{program} is neither setuid nor has a capability"
    assert gap.repair == f"sudo chmod u+s {program}"
    assert subordinate_ids.find_helper("newuidmap") is None


def single_reason(host: Host, *, setup: str = "", privileges: tuple[str, ...] = ()) -> str:
    host.give("nobody:200000:65536\n")
    show = "from pytest_rootfs.runtime import ids; print(ids.find_ids().gap.reason)"
    done = run_otherwise(["-c", show], files=host.files(), setup=setup, privileges=privileges)
    assert done.stderr == ""
    return done.stdout.strip()


@needs("root", "newuidmap")
def test_no_new_privileges_is_told(host: Host) -> None:
    assert single_reason(host) == ""
    assert single_reason(host, privileges=("--no-new-privs",)).endswith(
        "newuidmap gains no privilege, as no_new_privs is set on this process"
    )


@needs("root", "newuidmap")
def test_newuidmap_on_a_nosuid_mount_is_told(host: Host) -> None:
    program = shutil.which("newuidmap")
    setup = f"mount --bind {program} {program} && mount -o remount,bind,nosuid {program}"

    assert single_reason(host, setup=setup).endswith("lies on a file system mounted nosuid")


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
        f"hint: {User.find(NOBODY, NOBODY, '/etc').add_ranges}",
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
        f"hint: {User.find(NOBODY, NOBODY, '/etc').add_ranges}",
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


@needs("getsubids")
def test_module_without_ids_for_a_user_is_told(host: Host) -> None:
    host.give("nobody:200000:65536\n")
    host.write("nsswitch.conf", "subid: nonesuch # comment\n")
    user = User.find(54321, 54321, host.folder)

    ranges, gap = subordinate_ids.ranges_of(user, "gid")

    assert ranges == []
    assert gap.reason.startswith("nonesuch, which ")
    assert gap.reason.endswith(
        "nsswitch.conf names for subordinate ids, has no gid range for 54321"
    )
    assert "getsubids -g 54321`" in gap.repair


@pytest.mark.parametrize("line", ["subid: files", "#subid: sss", "subid:", "subids: sss", ""])
@needs("newuidmap")
def test_files_are_read_without_a_module(host: Host, line: str) -> None:
    host.give("nobody:200000:65536\n")
    host.write("nsswitch.conf", f"passwd: files\n{line}\n")

    assert host.ids().uid_map[1:] == ((1, 200000, 65535),)


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
