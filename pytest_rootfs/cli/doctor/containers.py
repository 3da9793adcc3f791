"""Lines about what a session of containers finds: control groups, systemd; and the proof."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_rootfs.cli.doctor.checks import Check, not_tried
from pytest_rootfs.cli.doctor.storage import one_line
from pytest_rootfs.errors import RootfsError
from pytest_rootfs.kernel import cgroups_reasons
from pytest_rootfs.kernel.cgroups_places import systemd_sockets
from pytest_rootfs.runtime.surroundings import Surroundings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_rootfs.engine import Engine

NAMES = ("cgroups", "systemd", "container")
NO_SESSION = "no session of containers starts, see the last line"


def cgroups(engine: Engine) -> Check:
    """Tell which limits the kernel enforces for us."""
    try:
        session = engine.session
    except RootfsError:
        return not_tried("cgroups", NO_SESSION)
    absent = [name for name, is_usable in session.controllers.items() if not is_usable]
    usable = [name for name in session.controllers if name not in absent]
    found = f"{session.cgroup_kind}, usable controllers: {' '.join(usable) or 'none'}"
    if not absent:
        return Check(name="cgroups", state="ok", found=found)
    reason, _, repair = session.limit_reasons.get(absent[0], "").partition("; ")
    return Check(
        name="cgroups",
        state="degraded",
        found=f"{found}; {reason}",
        consequence=f"limits on {', '.join(absent)} are refused (or ignored with "
        "--rootfs-limits=best-effort)",
        repair=repair,
    )


def systemd(engine: Engine, root: str = "/", environment: Mapping[str, str] = os.environ) -> Check:
    """Tell whether systemd can give an ordinary user a control group; `root` only in tests."""
    if not Path(root, "run/systemd/system").exists():
        return Check(name="systemd", state="ok", found="is not what runs this machine; not needed")
    if os.geteuid() == 0:
        return Check(name="systemd", state="ok", found="runs this machine; root does not need it")
    if sockets := systemd_sockets(environment):
        socket = sockets[0].replace("\0", "@")
        return Check(name="systemd", state="ok", found=f"the user's one may be asked at {socket}")
    try:
        lacks = not all(engine.session.controllers.values())
    except RootfsError:
        return not_tried("systemd", NO_SESSION)
    return Check(
        name="systemd",
        state="degraded" if lacks else "ok",
        found=cgroups_reasons.NO_USER_MANAGER,
        consequence="it can hand over no control group, which limits need" if lacks else "",
        repair=cgroups_reasons.START_USER_MANAGER if lacks else "",
    )


def container(engine: Engine) -> Check:
    """Start a container of an image without any file, write into it and read it back."""
    try:
        engine.start("scratch").close()  # the first one starts the session's processes, too
        begin = time.perf_counter()
        with engine.start("scratch", name="doctor") as started:
            started_ms = (time.perf_counter() - begin) * 1000
            started.path("/proof").write_text("ok")
            started.path("/proof").read_text()
    except RootfsError as error:
        return _no_container(one_line(error), error.hint)
    except OSError as error:
        return _no_container(f"its files: {error}", "")
    return Check(name="container", state="ok", found=f"started in {started_ms:.1f} ms")


def _no_container(found: str, hint: str) -> Check:
    return Check(
        name="container",
        state="missing",
        found=found,
        consequence="container tests are skipped, or fail with --rootfs-unsupported=fail",
        repair=hint
        or Surroundings.read().outer_repair
        or "PYTEST_ROOTFS_DEBUG=1 pytest-rootfs doctor, and please report it",
    )
