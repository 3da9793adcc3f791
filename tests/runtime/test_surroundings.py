"""What is read of the kernel's settings and of what runs us, and what a refusal means there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pytest_rootfs.runtime.surroundings import APPARMOR, CLONE, MAX, Surroundings, foreseen, refusal


def surroundings(
    root: Path, files: dict[str, str], *, is_root: bool = False, **environment: str
) -> Surroundings:
    for name, text in {"proc/sys/kernel/osrelease": "6.8.0-45-generic\n", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    read = Surroundings.read(str(root), environment)
    read.is_root = is_root
    return read


def sysctl(name: str, value: str) -> dict[str, str]:
    return {f"proc/sys/{name}": f"{value}\n"}


def test_this_machine_can_be_read() -> None:
    found = Surroundings.read()

    assert found.release == os.uname().release
    assert found.kernel >= (5, 0)
    assert found.is_root == (os.geteuid() == 0)


@pytest.mark.parametrize(
    ("release", "kernel", "wsl"),
    [
        ("6.18.44-fc-v595", (6, 18), 0),
        ("5.15.153.1-microsoft-standard-WSL2", (5, 15), 2),
        ("6.6.36.3-microsoft-standard-WSL2+", (6, 6), 2),
        ("4.4.0-19041-Microsoft", (4, 4), 1),
        ("6.12-rc1", (6, 12), 0),
        ("odd", (0, 0), 0),
        ("", (0, 0), 0),
    ],
)
def test_release_of_a_kernel(
    tmp_path: Path, release: str, kernel: tuple[int, int], wsl: int
) -> None:
    found = surroundings(tmp_path, {"proc/sys/kernel/osrelease": f"{release}\n"})

    assert (found.release, found.kernel, found.wsl) == (release, kernel, wsl)


@pytest.mark.parametrize(
    ("files", "environment", "place", "repair"),
    [
        ({}, {}, "no container around us", ""),
        ({".dockerenv": ""}, {}, "inside docker", "docker run --security-opt seccomp=unconfined"),
        ({"run/.containerenv": ""}, {"container": "podman"}, "inside podman", "unmask=ALL"),
        ({}, {"container": "oci"}, "inside podman", "podman run"),
        ({"run/systemd/container": "lxc\n"}, {}, "inside LXC", "security.nesting true"),
        (
            {"var/run/secrets/kubernetes.io/serviceaccount/token": "x"},
            {},
            "inside Kubernetes",
            "procMount: Unmasked",
        ),
        ({}, {"container": "pytest-rootfs"}, "inside another container", "privileged"),
        ({}, {"container": "systemd-nspawn"}, "inside systemd-nspawn", "systemd-nspawn"),
        (
            {".dockerenv": ""},
            {"GITLAB_CI": "true"},
            "inside docker on a GitLab runner",
            "config.toml",
        ),
        (
            {".dockerenv": ""},
            {"GITHUB_ACTIONS": "true"},
            "inside docker on a GitHub runner",
            "`options: --privileged`",
        ),
        (
            {},
            {"GITHUB_ACTIONS": "true"},
            "no container around us on a GitHub runner",
            "",
        ),
        (
            {"proc/sys/kernel/osrelease": "5.15.153.1-microsoft-standard-WSL2"},
            {},
            "no container around us, WSL 2",
            "",
        ),
    ],
)
def test_place_and_its_repair(
    tmp_path: Path, files: dict[str, str], environment: dict[str, str], place: str, repair: str
) -> None:
    found = surroundings(tmp_path, files, **environment)

    assert found.place == place
    assert repair in found.outer_repair
    assert bool(repair) == bool(found.outer_repair)


@pytest.mark.parametrize(("line", "expected"), [("Seccomp:\t2", True), ("Seccomp:\t0", False)])
def test_filter_is_seen(tmp_path: Path, line: str, expected: bool) -> None:  # noqa: FBT001  a case
    status = f"Name:\tx\n{line}\nSeccomp_filters:\t2\n"

    assert surroundings(tmp_path, {"proc/self/status": status}).is_filtered is expected


@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES])
def test_apparmor_denies_ordinary_users(tmp_path: Path, number: int) -> None:
    around = surroundings(tmp_path, sysctl(APPARMOR, "1"))

    gap = refusal(number, around)

    assert gap.reason.startswith("AppArmor denies user namespaces to ordinary users")
    assert gap.repair.startswith(
        "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0 (or run as root, or"
    )


def test_apparmor_on_a_github_runner_wants_a_step(tmp_path: Path) -> None:
    around = surroundings(tmp_path, sysctl(APPARMOR, "1"), GITHUB_ACTIONS="true")

    gap = refusal(errno.EPERM, around)

    assert gap.repair == (
        "a step before the tests: `run: sudo sysctl -w "
        "kernel.apparmor_restrict_unprivileged_userns=0`"
    )


@pytest.mark.parametrize(("value", "is_root"), [("0", False), ("1", True)])
def test_apparmor_is_not_blamed_without_cause(
    tmp_path: Path,
    value: str,
    is_root: bool,  # noqa: FBT001  a case
) -> None:
    around = surroundings(tmp_path, sysctl(APPARMOR, value), is_root=is_root)

    assert "AppArmor denies" not in refusal(errno.EPERM, around).reason


CONFINED = {"proc/self/attr/current": "python (enforce)\n"}
UNCONFINED = {"proc/self/attr/current": "unconfined\n"}


@pytest.mark.parametrize(
    ("files", "is_root", "reason"),
    [
        ({}, False, ""),
        (UNCONFINED, False, ""),
        (sysctl(MAX, "0"), True, "this host allows no more"),
        (sysctl(MAX, "9"), True, ""),
        (sysctl(CLONE, "0"), False, "this host denies"),
        (sysctl(CLONE, "0"), True, ""),
        ({**sysctl(APPARMOR, "1"), **UNCONFINED}, False, "AppArmor denies"),
        ({**sysctl(APPARMOR, "1"), **CONFINED}, False, ""),
        ({**sysctl(APPARMOR, "1"), **UNCONFINED}, True, ""),
        ({**sysctl(APPARMOR, "0"), **UNCONFINED}, False, ""),
    ],
)
def test_refusal_that_settings_foretell(
    tmp_path: Path,
    files: dict[str, str],
    is_root: bool,  # noqa: FBT001  a case
    reason: str,
) -> None:
    found = foreseen(surroundings(tmp_path, files, is_root=is_root))

    assert found.reason.startswith(reason)
    assert bool(found) == bool(reason)


@pytest.mark.parametrize(
    ("number", "files", "reason", "repair"),
    [
        (errno.ENOSPC, sysctl(MAX, "0"), "max_user_namespaces=0", "max_user_namespaces=15000"),
        (errno.EPERM, sysctl(MAX, "0"), "max_user_namespaces=0", "max_user_namespaces=15000"),
        (errno.ENOSPC, sysctl(MAX, "7"), "max_user_namespaces=7", "max_user_namespaces=15000"),
        (errno.EPERM, sysctl(CLONE, "0"), "unprivileged_userns_clone=0", "userns_clone=1"),
        (errno.EINVAL, {}, "CONFIG_USER_NS", "boot a kernel"),
        (errno.EPERM, {".dockerenv": ""}, "the docker around us denies", "docker run"),
        (
            errno.EPERM,
            {".dockerenv": "", "proc/self/status": "Seccomp:\t2\n"},
            "by its seccomp filter and capabilities",
            "docker run",
        ),
        (errno.EPERM, {"proc/self/status": "Seccomp:\t2\n"}, "a seccomp filter", "outside"),
        (errno.EPERM, {}, "this host denies", "run pytest as root"),
    ],
)
def test_what_a_refusal_means(
    tmp_path: Path, number: int, files: dict[str, str], reason: str, repair: str
) -> None:
    gap = refusal(number, surroundings(tmp_path, files))

    assert reason in gap.reason
    assert repair in gap.repair
