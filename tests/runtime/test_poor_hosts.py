"""Hosts on which the kernel, or a filter, refuses something: what stands in, what is said.

The calls are really refused, by a seccomp filter, to pytest-rootfs and to all that it starts. An
ordinary user's filter needs no_new_privs, with which newuidmap does not work: a single id is left.
"""

from __future__ import annotations

import errno
import json
import os
import sys

import pytest
from denied import Denial, argv_with, deny
from exercise import EXPECTED
from features import needs
from hosts import SUPPORT, findings
from otherwise import PLACE, STORE, run_otherwise

from pytest_rootfs.kernel import syscalls

pytestmark = [needs("userns", "unshare"), pytest.mark.slow]

BY_DESCRIPTOR = 5
"""FSCONFIG_SET_FD, the second argument of fsconfig(2)."""

STANDING_IN = {
    "clone3": deny("clone3"),
    "clone3, EPERM": deny("clone3", error=errno.EPERM),
    "openat2": deny("openat2"),
    "openat2, EPERM": deny("openat2", error=errno.EPERM),
    "pidfd calls": deny("pidfd_open", "pidfd_send_signal", "waitid"),
    "close_range": deny("close_range"),
    "mount_setattr, Linux 5.11": deny("mount_setattr"),
    "layers by descriptor, before 6.13": [
        Denial(call="fsconfig", argument=1, value=BY_DESCRIPTOR, error=errno.EINVAL)
    ],
    "overlay by the new calls, before 6.5": [
        Denial(call="fsconfig", argument=1, value=BY_DESCRIPTOR, error=errno.EOPNOTSUPP)
    ],
    "all of an old profile": deny("clone3", "openat2", "close_range", "pidfd_open"),
}


@pytest.mark.parametrize("denials", STANDING_IN.values(), ids=STANDING_IN)
def test_container_works_without_a_call(denials: list[Denial]) -> None:
    assert findings(denials) == EXPECTED


def test_rw_layer_without_attributes_is_on_disk() -> None:
    found = findings(deny("fsetxattr", error=errno.EOPNOTSUPP))

    assert found == {**EXPECTED, "disk": False}


NEEDED = {
    "unshare": deny("unshare", error=errno.EPERM),
    "setresgid": deny("setresgid", error=errno.EPERM),
    "mount": deny("mount", error=errno.EACCES),
    "open_tree": deny("open_tree", error=errno.EPERM),
    "move_mount": deny("move_mount", error=errno.EPERM),
    "fsopen": deny("fsopen"),
    "fsmount": deny("fsmount"),
    "clone": [
        *deny("clone3"),
        Denial(
            call="clone",
            argument=0,
            value=syscalls.CLONE_NEWUSER,
            is_mask=True,
            error=errno.EPERM,
        ),
    ],
}


@pytest.mark.parametrize("denials", NEEDED.values(), ids=NEEDED)
def test_needed_call_that_is_refused_is_named(denials: list[Denial]) -> None:
    found = findings(denials)

    call = denials[-1].call
    assert found["error"] == "HostUnsupported"
    assert call in f"{found['detail']}"
    assert "denies" in f"{found['what']}"
    assert found["hint"]


SETUPS = {
    "read-only /tmp": "mount -t tmpfs -o ro,mode=555 tmpfs /tmp",
    "tiny /tmp": "mount -t tmpfs -o size=4k,nr_inodes=2 tmpfs /tmp",
    "noexec /tmp, /var/tmp and /dev/shm": "for at in /tmp /var/tmp /dev/shm; do "
    "mount -t tmpfs -o noexec,nosuid,nodev tmpfs $at; done",
    "/tmp of someone else": "mount -t tmpfs -o mode=000 tmpfs /tmp",
    "no /dev/shm": "mount -t tmpfs -o mode=000,size=4k tmpfs /dev/shm",
}


@pytest.mark.parametrize("setup", SETUPS.values(), ids=SETUPS)
def test_temporary_folders_do_not_matter(setup: str) -> None:
    assert findings(setup=setup) == EXPECTED


def test_store_may_be_noexec() -> None:
    setup = f"mount -t tmpfs -o noexec,nosuid,nodev,mode=700 tmpfs {STORE}"

    assert findings(setup=setup) == EXPECTED


def test_root_may_have_more_groups() -> None:
    """Process 1 rehearses a command of root's on the host's files, and must keep its own ids."""
    setup = f"printf 'root:x:0:\\nbin:x:1:root,daemon\\n' > {PLACE}/group\n"
    setup += f"mount --bind {PLACE}/group /etc/group"

    assert findings(setup=setup) == EXPECTED


def test_full_store_says_so() -> None:
    found = findings(setup=f"mount -t tmpfs -o size=1m,mode=700 tmpfs {STORE}")

    assert "No space left" in f"{found['what']}"
    assert "--rootfs-store" in f"{found['hint']}"


def test_single_core_is_enough() -> None:
    core = min(os.sched_getaffinity(0))

    assert findings(around=["taskset", "-c", str(core)]) == EXPECTED


@pytest.mark.parametrize(("place", "shown"), [("/proc/acpi", "/proc"), ("/sys/firmware", "/sys")])
def test_masked_kernel_files_are_told(place: str, shown: str) -> None:
    """An outer container's masks would vanish in a new proc or sysfs, so the kernel refuses it."""
    if not os.path.isdir(place):
        place = f"{shown}/fs"
    masked = f"mount -t tmpfs -o size=0 tmpfs {place}"

    found = findings(setup=masked)

    assert found["error"] == "HostUnsupported"
    assert found["what"] == (
        f"parts of the {shown} around us are masked, so no fresh one can be mounted"
    )
    assert found["hint"]


def test_old_kernel_is_refused_by_version() -> None:
    setup = f"echo 5.10.0-28-amd64 > {PLACE}/release\n"
    setup += f"mount --bind {PLACE}/release /proc/sys/kernel/osrelease"

    found = findings(setup=setup)

    assert found == {
        "error": "HostUnsupported",
        "what": "Linux 5.10.0-28-amd64 is too old: before 5.11 a user namespace has no overlay",
        "detail": "",
        "hint": "install a kernel of 5.11 or newer",
    }


def overlays(depth: int) -> str:
    """Return shell text that mounts overlays on each other; the last one is on STORE."""
    option = "userxattr" if os.getuid() else "xino=off"
    lines = [f"mkdir -p {PLACE}/o; cd {PLACE}/o; mkdir -m 700 0"]
    for level in range(depth):
        target = STORE if level == depth - 1 else str(level + 1)
        layers = f"lowerdir={level},upperdir=u{level},workdir=w{level}"
        lines.append(f"mkdir -m 700 -p u{level} w{level} {target}")
        lines.append(f"mount -t overlay overlay -o {option},{layers} {target}")
    return "\n".join(lines)


def test_store_may_be_on_an_overlay() -> None:
    """As in a docker container, whose root is one."""
    assert findings(setup=overlays(1)) == EXPECTED


def test_store_on_nested_overlays_is_refused() -> None:
    found = findings(setup=overlays(2))

    assert found["error"] == "HostUnsupported"
    assert found["what"] == (
        "the store is on an overlay of an overlay, on which the kernel stacks no third"
    )
    assert "--rootfs-store" in f"{found['hint']}"


def root_on_overlay(change: str = "") -> str:
    """Return shell text that makes an overlay of / the root; `change` is done in its upper dir."""
    return f"""
        cd {PLACE}
        mkdir upper work root old
        (cd upper; {change or "true"})
        mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root
        for folder in proc sys dev mnt; do mount --rbind /$folder root/$folder; done
        cd root
        pivot_root . mnt/old
        umount -l /mnt/old
    """


@needs("root")
def test_root_folder_may_be_on_an_overlay() -> None:
    assert findings(setup=root_on_overlay()) == EXPECTED


@needs("root")
@pytest.mark.parametrize("change", ["mknod tmp c 0 0", "ln -s /var/tmp tmp", "touch tmp"])
def test_host_may_have_no_tmp(change: str) -> None:
    assert findings(setup=root_on_overlay(change)) == EXPECTED


@needs("root")
def test_host_image_on_an_overlay_is_refused() -> None:
    found = findings(setup=root_on_overlay(), image="host")

    assert found["error"] == "HostUnsupported"
    assert found["what"] == (
        "image host cannot be used by root here: the file system of / takes no id maps "
        "(an overlay does not)"
    )


APPARMOR = f"""
mkdir -p {PLACE}/sysctl/random
for name in osrelease cap_last_cap random/boot_id; do
    cat /proc/sys/kernel/$name > {PLACE}/sysctl/$name
done
echo 1 > {PLACE}/sysctl/apparmor_restrict_unprivileged_userns
mount --bind {PLACE}/sysctl /proc/sys/kernel
cp -r {SUPPORT} {PLACE}/support
"""


@needs("root")
def test_apparmor_that_denies_namespaces_is_told() -> None:
    """Ubuntu makes the namespace, and then denies it every mount."""
    program = [os.path.realpath(sys.executable), f"{PLACE}/support/exercise.py", STORE]
    denials = deny("mount", error=errno.EACCES)

    argv = argv_with(denials, *program, folder=f"{PLACE}/support")
    done = run_otherwise(argv[1:], setup=APPARMOR)

    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found["error"] == "HostUnsupported"
    assert found["what"] == (
        "AppArmor denies user namespaces to ordinary users on this host "
        "(kernel.apparmor_restrict_unprivileged_userns=1)"
    )
    assert "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0" in found["hint"]
