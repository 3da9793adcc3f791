"""What surrounds this process: settings of the kernel, an outer container, WSL, a CI runner.

Read, never tried. `refusal` tells what a refused namespace or mount means here and the command that
repairs it, in the words that errors and `doctor` share.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping

from pytest_rootfs.kernel.proc_files import read_text
from pytest_rootfs.runtime.gaps import NO_GAP, Gap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    Outer = Literal[
        "", "docker", "podman", "Kubernetes", "LXC", "systemd-nspawn", "another container"
    ]

APPARMOR = "kernel/apparmor_restrict_unprivileged_userns"
CLONE = "kernel/unprivileged_userns_clone"
MAX = "user/max_user_namespaces"
CAP_SYS_ADMIN = 21
"""linux/capability.h."""

WHOLE = ["0", "0", "4294967295"]
"""The id map of the initial user namespace; user_namespaces(7)."""

_DOCKER_OPTIONS = (
    "--security-opt seccomp=unconfined --security-opt apparmor=unconfined "
    "--security-opt systempaths=unconfined"
)
_OUTER_REPAIR: dict[str, str] = {
    "docker": f"docker run {_DOCKER_OPTIONS} …, or docker run --privileged …",
    "podman": "podman run --security-opt seccomp=unconfined --security-opt unmask=ALL …, or "
    "podman run --privileged …",
    "Kubernetes": "`securityContext: {privileged: true}` in the pod, or `hostUsers: false` with "
    "`procMount: Unmasked`",
    "LXC": "lxc config set NAME security.nesting true",
    "systemd-nspawn": "SYSTEMD_SECCOMP=0 systemd-nspawn --private-users=pick …",
    "another container": "start that container privileged",
}
_GITLAB_REPAIR = "`privileged = true` below [runners.docker] in the runner's config.toml"
_ACTIONS_REPAIR = "`options: --privileged` below `container:` in the workflow"
_MARKERS: tuple[tuple[str, Outer], ...] = (
    ("run/.containerenv", "podman"),
    ("var/run/secrets/kubernetes.io", "Kubernetes"),
    (".dockerenv", "docker"),
)
_NAMES: dict[str, Outer] = {
    "docker": "docker",
    "podman": "podman",
    "oci": "podman",
    "lxc": "LXC",
    "lxc-libvirt": "LXC",
    "systemd-nspawn": "systemd-nspawn",
}


class Surroundings:
    """What was read; `settings` are the sysctls that matter, by path, without absent ones."""

    # a plain class, as `Gap` is

    def __init__(
        self,
        *,
        release: str,
        outer: Outer,
        settings: Mapping[str, str],
        is_filtered: bool,
        is_root: bool,
        is_unconfined: bool = False,
        is_github: bool = False,
        is_gitlab: bool = False,
    ) -> None:
        self.release = release
        self.outer: Outer = outer
        self.settings = settings
        self.is_filtered = is_filtered
        """Whether a seccomp filter is on this process."""
        self.is_root = is_root
        self.is_unconfined = is_unconfined
        """Whether AppArmor has no profile for this process, which it needs to be spared."""
        self.is_github = is_github
        self.is_gitlab = is_gitlab

    @classmethod
    def read(cls, root: str = "/", environment: Mapping[str, str] = os.environ) -> Surroundings:
        """Read below `root`, which is another folder only to test the reading."""
        top = root.rstrip("/")
        settings = {name: _word(f"{top}/proc/sys/{name}") for name in (APPARMOR, CLONE, MAX)}
        return cls(
            release=_word(f"{top}/proc/sys/kernel/osrelease"),
            outer=_outer(top, environment),
            settings={name: value for name, value in settings.items() if value},
            is_filtered="Seccomp:\t2" in _text(f"{top}/proc/self/status").splitlines(),
            is_root=os.geteuid() == 0,
            is_unconfined=_word(f"{top}/proc/self/attr/current").startswith("unconfined"),
            is_github=environment.get("GITHUB_ACTIONS") == "true",
            is_gitlab=environment.get("GITLAB_CI") == "true",
        )

    @property
    def wsl(self) -> int:
        """The version of the Windows Subsystem for Linux, 0 elsewhere."""
        if "microsoft" not in self.release.lower():
            return 0
        return 1 if self.release.endswith("-Microsoft") else 2

    @property
    def kernel(self) -> tuple[int, int]:
        """The kernel's version, (0, 0) if its release begins with none."""
        parts = self.release.partition("-")[0].split(".")[:2]
        if len(parts) != 2 or not all(part.isascii() and part.isdigit() for part in parts):
            return 0, 0
        return int(parts[0]), int(parts[1])

    @property
    def place(self) -> str:
        """Where this process runs, in words."""
        inside = f"inside {self.outer}" if self.outer else "no container around us"
        runner = " on a GitHub runner" if self.is_github else " on a GitLab runner"
        wsl = f", WSL {self.wsl}" if self.wsl else ""
        return f"{inside}{runner if self.is_github or self.is_gitlab else ''}{wsl}"

    @property
    def outer_repair(self) -> str:
        """How to start the container around us so that it lets us make containers; "" for none."""
        if not self.outer:
            return ""
        if self.is_gitlab:
            return _GITLAB_REPAIR
        return _ACTIONS_REPAIR if self.is_github else _OUTER_REPAIR[self.outer]


def is_root_of_host() -> bool:
    """Tell whether this process is root of the first user namespace, and may mount there."""
    if os.getuid() != 0 or _text("/proc/self/uid_map").split() != WHOLE:
        return False
    held = _text("/proc/self/status").partition("CapEff:")[2].split(maxsplit=1)
    return bool(held) and bool(int(held[0], 16) >> CAP_SYS_ADMIN & 1)


def refusal(number: int, around: Surroundings) -> Gap:
    """Return why the kernel refused a user namespace, or a mount inside one, and the repair."""
    is_denied = number in (errno.EPERM, errno.EACCES)
    settings = around.settings
    if number == errno.ENOSPC or settings.get(MAX) == "0":
        kind, most = _scarcest_namespaces(settings)
        setting = f"user.max_{kind}_namespaces"
        what = f"this host allows no more {kind} namespaces ({setting}={most})"
        return Gap(reason=what, repair=f"sudo sysctl -w {setting}=15000")
    if is_denied and settings.get(APPARMOR) == "1" and not around.is_root:
        return Gap(
            reason="AppArmor denies user namespaces to ordinary users on this host "
            "(kernel.apparmor_restrict_unprivileged_userns=1)",
            repair=_apparmor_repair(around),
        )
    if is_denied and settings.get(CLONE) == "0" and not around.is_root:
        return Gap(
            reason="this host denies user namespaces to ordinary users "
            "(kernel.unprivileged_userns_clone=0)",
            repair="sudo sysctl -w kernel.unprivileged_userns_clone=1",
        )
    if number in (errno.EINVAL, errno.ENOSYS):
        what = "this kernel has no user namespaces (CONFIG_USER_NS)"
        return Gap(reason=what, repair="boot a kernel of your distribution")
    by = "by its seccomp filter and capabilities" if around.is_filtered else "by its capabilities"
    if around.outer:
        what = f"the {around.outer} around us denies namespaces and mounts {by}"
        return Gap(reason=what, repair=around.outer_repair)
    if around.is_filtered:
        what = "a seccomp filter on this process denies namespaces or mounts"
        return Gap(reason=what, repair="run pytest outside of the sandbox or service that sets it")
    return Gap(
        reason="this host denies user namespaces, or mounts inside of them",
        repair="run pytest as root, or ask the security module (SELinux, AppArmor) of this host: "
        "sudo dmesg | tail",
    )


def _scarcest_namespaces(settings: Mapping[str, str]) -> tuple[str, str]:
    """Return the kind of namespaces of which the fewest are allowed, and their number."""
    limits = {"user": settings.get(MAX, "")}
    for kind in ("net", "mnt", "pid", "ipc", "uts", "cgroup"):
        limits[kind] = _word(f"/proc/sys/user/max_{kind}_namespaces")
    known = {kind: int(most) for kind, most in limits.items() if most.isdigit()}
    least = min(known, key=lambda kind: known[kind], default="user")
    return least, limits[least] or "unknown"


def foreseen(around: Surroundings) -> Gap:
    """Return the refusal that the settings alone make certain, an empty gap where they do not."""
    settings = around.settings
    is_certain = settings.get(MAX) == "0" or (
        not around.is_root
        and (settings.get(CLONE) == "0" or (settings.get(APPARMOR) == "1" and around.is_unconfined))
    )
    return refusal(errno.EPERM, around) if is_certain else NO_GAP


def _apparmor_repair(around: Surroundings) -> str:
    command = "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    if around.is_github:
        return f"a step before the tests: `run: {command}`"
    return f"{command} (or run as root, or give the interpreter a profile with `userns,`)"


def _outer(top: str, environment: Mapping[str, str]) -> Outer:
    for marker, outer in _MARKERS:
        if os.path.exists(f"{top}/{marker}"):
            return outer
    # systemd.io/CONTAINER_INTERFACE; our own containers say so as well
    name = environment.get("container", "") or _word(f"{top}/run/systemd/container")
    return _NAMES.get(name, "another container") if name else ""


def _word(path: str) -> str:
    return _text(path).strip()


def _text(path: str) -> str:
    try:
        return read_text(path)
    except OSError:
        return ""
