"""What a test may need of the machine: `@needs("userns")`, or the name of any program."""

from __future__ import annotations

import functools
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

PROPERTIES = ("root", "ordinary user", "cgroup v1", "cgroup v2", "systemd user session")
"""Features of which a place has one or the other: CI has places of both kinds, so it may skip."""

LACKS = "CI_LACKS"
"""The variable in which CI names, with commas between, what else a place of its own cannot give."""


def needs(*names: str) -> pytest.MarkDecorator:
    """Mark a test with what it needs of the machine."""
    return pytest.mark.needs(*names)


@functools.cache
def missing(name: str) -> str:
    """Return why a feature is missing here, or nothing. What is no known feature is a program."""
    if name in _CHECKS:
        return _CHECKS[name]()
    return "" if shutil.which(name) else f"{name} is not installed"


def give_up(name: str, reason: str) -> NoReturn:
    """Skip on a laptop; fail in CI, which has promised every feature but those that it names."""
    excused = (*PROPERTIES, *os.environ.get(LACKS, "").split(","))
    if os.environ.get("CI") and name not in excused:
        pytest.fail(f"CI lacks {name!r}: {reason}", pytrace=False)
    pytest.skip(reason)


def _user_namespaces() -> str:
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "true"]
    done = subprocess.run(unshare, check=False, capture_output=True, text=True)
    return done.stderr.strip()


def _subordinate_ids() -> str:
    if os.getuid() == 0:
        return ""
    if not shutil.which("newuidmap"):
        return "newuidmap is not installed"
    names = {pwd.getpwuid(os.getuid()).pw_name, str(os.getuid())}
    path = Path("/etc/subuid")
    lines = path.read_text().splitlines() if path.exists() else []
    return "" if any(line.split(":")[0] in names for line in lines) else "no range in /etc/subuid"


def _controller(name: str) -> Callable[[], str]:
    def check() -> str:
        from pytest_rootfs.kernel import cgroups

        kind, usable = cgroups.survey(sockets=cgroups.systemd_sockets(os.environ))
        return "" if usable[name] else f"no {name} controller may be used here (cgroups: {kind})"

    return check


def _own_cgroups() -> str:
    from pytest_rootfs.kernel import cgroups

    kind, _ = cgroups.survey()
    return "" if kind != "none" else "this process may make no control group, unless systemd helps"


def _cgroup_kind(version: int) -> Callable[[], str]:
    def check() -> str:
        is_v2 = Path("/sys/fs/cgroup/cgroup.controllers").exists()
        return "" if is_v2 == (version == 2) else f"the cgroups here are not v{version}"

    return check


def _disk_limit() -> str:
    with tempfile.TemporaryFile(dir="/dev/shm") as file:
        try:
            os.setxattr(file.fileno(), "user.test", b"")
        except OSError:
            return "rw layers are on disk: tmpfs has no user extended attributes before Linux 6.6"
    return ""


def _mapped_tmpfs() -> str:
    version = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))
    return "" if version >= (6, 3) else "tmpfs takes no id map before Linux 6.3"


def _processor_time() -> str:
    is_exact = "User Mode Linux" not in Path("/proc/cpuinfo").read_text()
    return "" if is_exact else "user-mode Linux counts the time in which it waits for its host, too"


def _call_stops() -> str:
    is_exact = "User Mode Linux" not in Path("/proc/cpuinfo").read_text()
    return "" if is_exact else "user-mode Linux stops no process at its system calls"


def _second_core() -> str:
    cores = len(os.sched_getaffinity(0))
    return "" if cores > 1 else "there is a single core: nothing is made ahead"


def _root() -> str:
    return "" if os.getuid() == 0 else "only root can"


def _ordinary_user() -> str:
    return "only an ordinary user can" if os.getuid() == 0 else ""


def _systemd_user_session() -> str:
    from pytest_rootfs.kernel import cgroups_layout, cgroups_places, cgroups_rights

    if not cgroups_places.systemd_sockets(os.environ):
        return "no systemd serves this user"
    is_needed = any(map(cgroups_rights.lacks_delegation, cgroups_layout.read_mounts()))
    return "" if is_needed else "our control group is delegated already, or on cgroup v1"


_CHECKS: dict[str, Callable[[], str]] = {
    "root": _root,
    "ordinary user": _ordinary_user,
    "own cgroups": _own_cgroups,
    "cgroup v1": _cgroup_kind(1),
    "cgroup v2": _cgroup_kind(2),
    "systemd user session": _systemd_user_session,
    "disk": _disk_limit,
    "mapped tmpfs": _mapped_tmpfs,
    "processor time": _processor_time,
    "call stops": _call_stops,
    "second core": _second_core,
    "userns": _user_namespaces,
    "subids": _subordinate_ids,
    "memory": _controller("memory"),
    "pids": _controller("pids"),
    "cpus": _controller("cpu"),
}
