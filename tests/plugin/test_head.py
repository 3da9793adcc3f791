"""What the head of a report says in poor places, and that the errors there use its words."""

from __future__ import annotations

from pathlib import Path

import pytest
from features import needs
from otherwise import READONLY_CGROUPS, run_otherwise

SHOW = """
from pathlib import Path
import os
from pytest_rootfs.engine import Engine, EngineSettings
from pytest_rootfs import head
from pytest_rootfs.errors import RootfsError
from pytest_rootfs.runtime.spec import ContainerOptions
print(head.refusal_foreseen())
print(head.id_mode()[1])
print(*head.limits(), sep=": ")
engine = Engine(EngineSettings(store=Path(os.environ["PYTEST_ROOTFS_STORE"])), warn=print)
try:
    engine.start("scratch", options=ContainerOptions.from_keywords({"pids": 9})).close()
except RootfsError as error:
    print(type(error).__name__, error, sep=": ")
finally:
    engine.close()
"""
pytestmark = [needs("root", "userns"), pytest.mark.slow]


def seen(**how: object) -> list[str]:
    done = run_otherwise(["-c", SHOW], **how)  # type: ignore[arg-type]  # its keywords
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_namespaces_forbidden_by_a_setting() -> None:
    script = 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"'
    wrapper = ("unshare", "--user", "--map-root-user", "sh", "-c", script, "sh")

    foreseen, _, _, what, _, hint = seen(uid=0, wrapper=wrapper)

    assert foreseen == "this host allows no more user namespaces (user.max_user_namespaces=0)"
    assert what == f"HostUnsupported: {foreseen}"
    assert hint == "hint: sudo sysctl -w user.max_user_namespaces=15000"


def test_limits_behind_read_only_cgroups() -> None:
    foreseen, _, limits, what, detail, _ = seen(uid=0, setup=READONLY_CGROUPS)

    assert foreseen == ""
    assert limits.startswith("none: no limits: /sys/fs/cgroup")
    assert limits.endswith(" is mounted read-only, as in a container without privileges")
    assert what.startswith("LimitUnavailable: the limit pids=9")
    assert "is mounted read-only" in detail


@needs("newuidmap")
def test_user_with_nothing(tmp_path: Path) -> None:
    (tmp_path / "none").touch()
    files = dict.fromkeys(("/etc/subuid", "/etc/subgid"), tmp_path / "none")

    foreseen, ids, limits, what, *_ = seen(files=files)

    assert foreseen == ""
    assert ids == "user nobody has no range in /etc/subuid"
    assert limits.startswith("none: no limits: /sys/fs/cgroup")
    assert limits.endswith(" is not delegated to us")
    assert what.startswith("LimitUnavailable: the limit pids=9")
