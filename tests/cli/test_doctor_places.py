"""`doctor` where containers cannot run, or with less: each place made for real as far as it goes.

What makes the place is the kernel's: a filter as docker installs, dropped capabilities, masks over
/proc, read-only control groups, a limit on namespaces.
"""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from denied import DOCKER, deny, wrapper
from features import needs
from otherwise import NOBODY, READONLY_CGROUPS, run_otherwise

if TYPE_CHECKING:
    from collections.abc import Mapping

KEPT = (
    "+chown,+dac_override,+fsetid,+fowner,+mknod,+net_raw,+setgid,+setuid,+setfcap,+setpcap,"
    "+net_bind_service,+sys_chroot,+kill,+audit_write"
)
DOCKER_CAPABILITIES = (f"--bounding-set=-all,{KEPT}", "--inh-caps=-all")
MASK_PROC = """
for file in kcore keys timer_list; do
    [ ! -e /proc/$file ] || mount --bind /dev/null /proc/$file
done
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
"""
SANDBOX = ("root", "userns")

pytestmark = [needs(*SANDBOX), pytest.mark.slow]


@dataclass(frozen=True, slots=True)
class Examined:
    """What `doctor --json` said."""

    status: int
    checks: Mapping[str, Mapping[str, str]]

    def states(self, *names: str) -> list[str]:
        """Return the states of some lines."""
        return [self.checks[name]["state"] for name in names]


def examined(**how: Any) -> Examined:  # Any: the arguments of run_otherwise
    done = run_otherwise(["-m", "pytest_rootfs", "doctor", "--json"], **how)
    assert done.stderr == ""
    return Examined(done.returncode, {each["name"]: each for each in json.loads(done.stdout)})


def test_docker_with_its_defaults() -> None:
    found = examined(
        uid=0,
        privileges=DOCKER_CAPABILITIES,
        wrapper=wrapper(DOCKER),
        setup=MASK_PROC + READONLY_CGROUPS,
        environment={"container": "docker"},
    )

    checks = found.checks
    assert found.status == 1
    assert checks["environment"]["found"] == "inside docker"
    assert checks["seccomp"]["found"].startswith("a filter is on this process")
    assert checks["user namespaces"]["state"] == "missing"
    assert checks["user namespaces"]["found"].startswith(
        "the docker around us denies namespaces and mounts by its seccomp filter and capabilities"
    )
    assert checks["user namespaces"]["repair"] == (
        "docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined "
        "--security-opt systempaths=unconfined …, or docker run --privileged …"
    )
    assert checks["clone3"]["found"].endswith("Function not implemented (clone3 0x0)")
    after = ("mounts", "network", "/proc", "overlay", "rw layer", "cgroups", "container")
    assert set(found.states(*after)) == {"not tried"}


def test_docker_with_the_options_of_the_repair() -> None:
    found = examined(
        uid=0,
        privileges=DOCKER_CAPABILITIES,
        setup=READONLY_CGROUPS,
        environment={"container": "docker"},
    )

    assert found.status == 0
    assert found.checks["ids"]["found"].startswith("rootless; container root is uid 0 here, 65536")
    assert found.checks["cgroups"]["state"] == "degraded"
    assert "mounted read-only" in found.checks["cgroups"]["found"]
    assert "--privileged" in found.checks["cgroups"]["repair"]
    assert found.checks["container"]["state"] == "ok"


def test_privileged_docker() -> None:
    found = examined(uid=0, environment={"container": "docker"})

    assert found.status == 0
    assert found.checks["ids"]["found"].startswith("rootful")


def test_masked_proc() -> None:
    found = examined(
        uid=0,
        privileges=DOCKER_CAPABILITIES,
        setup=MASK_PROC,
        environment={"container": "podman"},
    )

    proc = found.checks["/proc"]
    assert (found.status, proc["state"]) == (1, "missing")
    assert proc["found"].startswith("parts of the /proc around us are masked")
    assert "not permitted" in proc["found"]
    assert found.states("overlay", "container") == ["ok", "not tried"]


def test_no_more_user_namespaces() -> None:
    script = 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"'
    forbidden = ("unshare", "--user", "--map-root-user", "sh", "-c", script, "sh")

    found = examined(uid=0, wrapper=forbidden)

    check = found.checks["user namespaces"]
    assert (found.status, check["state"]) == (1, "missing")
    assert "user.max_user_namespaces=0" in check["found"]
    assert check["repair"] == "sudo sysctl -w user.max_user_namespaces=15000"


def test_filter_that_names_itself_nowhere() -> None:
    found = examined(
        wrapper=wrapper(deny("unshare", error=errno.EPERM)), environment={"container": ""}
    )

    check = found.checks["user namespaces"]
    assert (found.status, check["state"]) == (1, "missing")
    assert "seccomp filter" in check["found"]
    assert check["found"].endswith("Operation not permitted (unshare 0x10000000)")


@pytest.mark.parametrize("call", ["clone3", "openat2"])
def test_call_that_an_older_filter_does_not_know(call: str) -> None:
    found = examined(wrapper=wrapper(deny(call)))

    check = found.checks[call]
    assert check["state"] == "degraded"
    assert f" denies {call}: Function not implemented (" in check["found"]
    assert check["consequence"]
    assert check["repair"]


@pytest.mark.parametrize("call", ["fsopen", "fsconfig", "open_tree", "move_mount"])
def test_mount_calls_that_an_older_filter_does_not_know(call: str) -> None:
    found = examined(wrapper=wrapper(deny(call)))

    check = found.checks["mount calls"]
    assert (found.status, check["state"]) == (1, "missing")
    assert f" denies {call}: Function not implemented (" in check["found"]
    assert found.states("overlay", "container") == ["ok", "not tried"]


def test_user_without_subordinate_ids(tmp_path: Path) -> None:
    (tmp_path / "none").touch()
    files = dict.fromkeys(("/etc/subuid", "/etc/subgid"), tmp_path / "none")

    found = examined(uid=NOBODY, files=files)

    check = found.checks["ids"]
    assert (found.status, check["state"]) == (0, "degraded")
    assert check["found"] == "rootless, single id: user nobody has no range in /etc/subuid"
    assert check["consequence"].startswith("containers have only a root user")
    assert check["repair"].startswith("sudo usermod --add-subuids")


def test_single_core() -> None:
    found = examined(wrapper=("taskset", "--cpu-list", str(min(os.sched_getaffinity(0)))))

    assert found.checks["cores"]["state"] == "degraded"
    assert "no container is made ahead" in found.checks["cores"]["consequence"]


@pytest.mark.parametrize(
    ("setup", "found_text", "consequence"),
    [
        ("mount -t tmpfs -o mode=1777,noexec tmpfs /var/tmp", "mounted noexec", "runs neither"),
        ("mount -t tmpfs -o mode=1777,size=1M tmpfs /var/tmp", "1.0 MiB free", "no room"),
    ],
    ids=["noexec", "tiny"],
)
def test_poor_folder_for_temporary_files(setup: str, found_text: str, consequence: str) -> None:
    found = examined(setup=setup, environment={"TMPDIR": "/var/tmp"})

    check = found.checks["temporary files"]
    assert (found.status, check["state"]) == (0, "degraded")
    assert check["found"].endswith(found_text)
    assert consequence in check["consequence"]


def test_no_folder_for_temporary_files() -> None:
    readonly = "\n".join(
        f"mount --bind {place} {place} && mount -o remount,bind,ro {place}"
        for place in ("/tmp", "/var/tmp")
    )
    setup = f"{readonly}\n[ ! -d /usr/tmp ] || mount -o remount,bind,ro /usr/tmp"

    check = examined(setup=setup).checks["temporary files"]

    assert check["state"] == "degraded"
    assert check["consequence"].startswith("pytest's tmp_path fails")
