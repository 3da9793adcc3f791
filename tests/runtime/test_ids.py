"""Which host ids the users of a container become, and what is told where some are missing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from features import needs
from id_hosts import Host
from otherwise import NOBODY, run_otherwise

from pytest_rootfs.runtime import ids, subordinate_ids
from pytest_rootfs.runtime.gaps import Gap
from pytest_rootfs.runtime.subordinate_ids import User


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
    return subordinate_ids.helper_gap(User(NOBODY, NOBODY, "/etc"))


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


@needs("getsubids")
def test_module_without_ids_for_a_user_is_told(host: Host) -> None:
    host.give("nobody:200000:65536\n")
    host.write("nsswitch.conf", "subid: nonesuch # comment\n")
    user = User(54321, 54321, host.folder)

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
