"""An ordinary user whose login session is not delegated: systemd gives the session a scope."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from features import needs
from polling import wait_until

from pytest_rootfs import head
from pytest_rootfs.engine import Engine, EngineSettings
from pytest_rootfs.errors import ContainerDied
from pytest_rootfs.runtime.spec import ContainerOptions

CGROUPS = "/sys/fs/cgroup"


def cgroup_of(pid: int | str) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text().strip().removeprefix("0::")


@needs("systemd user session")
def test_containers_are_in_a_scope_and_pytest_is_not(engine: Engine) -> None:
    own_before = cgroup_of("self")
    second = Engine(EngineSettings(store=engine.settings.store, makes_ahead=False), warn=print)
    options = ContainerOptions.from_keywords({"memory": "64M", "pids": 10, "cpus": 0.5})

    with second.start("minimal", options=options) as container:
        warden = second.session._process.pid
        places = [cgroup_of(warden), cgroup_of(container.pid)]
    second.close()

    scopes = [place.partition(".scope/")[0] for place in places]
    assert re.search(rf"/pytest-rootfs-[0-9a-f]{{8}}-{warden}-\d+$", scopes[0])
    assert scopes[0] == scopes[1]
    assert cgroup_of("self") == own_before
    wait_until(lambda: not Path(f"{CGROUPS}{scopes[0]}.scope").exists())


@needs("systemd user session")
def test_header_promises_what_the_scope_gives(engine: Engine) -> None:
    promised = head.limits()
    second = Engine(EngineSettings(store=engine.settings.store, makes_ahead=False), warn=print)

    second.start("scratch").close()
    controllers = second.session.controllers
    kind = second.session.cgroup_kind
    second.close()

    assert promised == (kind, "")
    assert all(controllers[name] for name in ("memory", "pids", "cpu"))


@needs("systemd user session")
def test_stopped_scope_is_replaced_by_the_next_start(engine: Engine) -> None:
    second = Engine(EngineSettings(store=engine.settings.store, makes_ahead=False), warn=print)
    lost = second.start("minimal")
    scope = cgroup_of(lost.pid).partition(".scope/")[0].rpartition("/")[2]

    subprocess.run(["systemctl", "--user", "stop", f"{scope}.scope"], check=True)

    with pytest.raises(ContainerDied):
        lost.run(["true"])
    with second.start("minimal") as fresh:
        assert fresh.run(["echo", "again"]).stdout == "again\n"
    lost.close()
    second.close()
