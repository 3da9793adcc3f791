"""Limit and measure the processes of a container: control groups v1, hybrid, v2, or none.

The warden, which has the rights of whoever runs pytest, makes one session folder in every
hierarchy that can be used (`find_parent`); the spawner, forked from it, makes one group a
container below (`Parent.create`) through the descriptors it inherits. Candidates are tried, not
assumed: a process joins, a folder is made and removed by the owner-to-be. In order: what the user
names; our own folder, if it is ours to divide (`cgroups_rights`); a scope that systemd makes for
us (`cgroups_scope`); the nearest folder above that is writable.

Only folders named `pytest-rootfs-…` are ever made or removed, and no process is moved but out of a
folder that was handed to us. Raises `OSError` only.
"""

from __future__ import annotations

import errno
import os
import select

from pytest_rootfs.kernel import cgroups_files as files
from pytest_rootfs.kernel import cgroups_layout as layout
from pytest_rootfs.kernel import cgroups_places as places
from pytest_rootfs.kernel import cgroups_reasons as reasons
from pytest_rootfs.kernel import cgroups_rights as rights
from pytest_rootfs.kernel import cgroups_scope as scope
from pytest_rootfs.kernel import cgroups_v2 as v2
from pytest_rootfs.kernel import signals
from pytest_rootfs.kernel.cgroups_layout import CONTROLLERS, SETTING
from pytest_rootfs.kernel.cgroups_places import survey, systemd_sockets
from pytest_rootfs.kernel.cgroups_session import FIGURES, Group, Parent
from pytest_rootfs.kernel.cgroups_v1 import V1Hierarchy
from pytest_rootfs.kernel.cgroups_v2 import V2Hierarchy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

    from pytest_rootfs.kernel.cgroups_files import Owner
    from pytest_rootfs.kernel.cgroups_hierarchy import Hierarchy
    from pytest_rootfs.kernel.cgroups_layout import Mount

__all__ = [
    "CONTROLLERS",
    "FIGURES",
    "SETTING",
    "Group",
    "Parent",
    "find_parent",
    "survey",
    "systemd_sockets",
]

TRIAL_S = 5.0
"""How long a trial may take: longer than any lock of the kernel's is held."""


def find_parent(
    explicit: str | None = None,
    owner: Owner | None = None,
    *,
    init_pids: int = 1,
    sockets: Sequence[str] | None = None,
) -> Parent:
    """Find where groups can be made, make the session's folders there, and try them.

    `explicit` is the user's setting, and then the only place that is tried: a path below a control
    group mount, or one relative to every mount; several are joined by ":". `owner` is the (uid,
    gid) on the host that the spawner will have. `init_pids` is what an init needs of `pids` on v1,
    where it is in the limited group. `sockets` are those of the user's systemd, which may be asked
    to move the *calling process* into a scope; None forbids that. Raises nothing for lack of
    rights: that is in `reasons`.
    """
    mounts = places.useful_mounts()
    failures: dict[str, str] = {}
    no_scope: dict[str, str] = {}
    if explicit is None and sockets is not None:
        no_scope = _enter_scope(mounts, sockets)
        mounts = places.useful_mounts()
    parent = Parent(rights.session_name(), layout.kind_of(mounts))
    for mount in mounts:
        made = _make(mount, explicit, parent.name, owner, failures)
        if isinstance(made, V1Hierarchy):
            made.init_pids = init_pids
        if made is not None:
            parent.hierarchies.append(made)
        if parent.kind == "v2":
            for name in CONTROLLERS:
                failures.setdefault(name, reasons.of_withheld(name, mount))
    _drop_unusable(parent, owner, failures)
    _conclude(parent, {**failures, **no_scope})
    return parent


def _enter_scope(mounts: list[Mount], sockets: Sequence[str]) -> dict[str, str]:
    """Have systemd put us where we may make groups, if it takes that; else say why it does not."""
    for mount in mounts:
        if set(mount.controllers) & set(CONTROLLERS) and rights.lacks_delegation(mount):
            try:
                scope.enter(sockets)
            except OSError as error:
                return dict.fromkeys(mount.controllers, reasons.of_no_scope(mount.own, error))
    return {}


def _make(
    mount: Mount, explicit: str | None, name: str, owner: Owner | None, failures: dict[str, str]
) -> Hierarchy | None:
    """Make the session's folder in the first candidate that takes it, or say why none does."""
    candidates = places.candidates(mount, explicit)
    if not candidates:
        failures.update(dict.fromkeys(mount.controllers, reasons.of_no_folder(mount, explicit)))
    for folder, controllers in candidates:
        try:
            made = _make_in(folder, mount, explicit, name, controllers, owner)
        except OSError as error:
            for controller in mount.controllers:
                failures.setdefault(controller, reasons.of_refused_folder(mount, error))
            continue
        for controller in mount.controllers:
            failures[controller] = reasons.of_not_given(
                controller, folder, made.missing.get(controller)
            )
        return made
    return None


def _make_in(
    folder: str,
    mount: Mount,
    explicit: str | None,
    name: str,
    controllers: tuple[str, ...],
    owner: Owner | None,
) -> Hierarchy:
    if mount.version == 1:
        return V1Hierarchy(folder, name, controllers, owner)
    if explicit is not None or rights.is_ours(mount, folder):
        _prepare(folder, controllers)
    return V2Hierarchy(folder, name, controllers, owner)


def _prepare(folder: str, controllers: tuple[str, ...]) -> None:
    """Enable controllers for the children of a folder that is ours."""
    missing = tuple(name for name in controllers if name not in layout.enabled_in(folder))
    if not missing:
        return
    if not rights.is_tree_root(folder):
        v2.evacuate(folder)
    handle = files.Folder(folder)
    v2.enable(handle, missing)
    handle.close()


def _drop_unusable(parent: Parent, owner: Owner | None, failures: dict[str, str]) -> None:
    """Give back the hierarchies in which the trial failed, or that lack every controller."""
    hierarchies = parent.hierarchies[:]
    for hierarchy, number in zip(hierarchies, _try_all(hierarchies, owner), strict=True):
        if number:
            what = reasons.of_failed_trial(hierarchy.folder.path, number)
            failures.update(dict.fromkeys(hierarchy.controllers, what))
        if number or not set(hierarchy.controllers) - {"io"}:
            hierarchy.remove()
            hierarchy.close()
            parent.hierarchies.remove(hierarchy)


def _try_all(hierarchies: list[Hierarchy], owner: Owner | None) -> list[int]:
    """Return an errno, or 0, for each: a forked child joins, becomes the owner, makes a folder."""
    if not hierarchies:
        return []
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        _run_trial(hierarchies, owner, writing)
    os.close(writing)
    ready = select.poll()
    ready.register(reading, select.POLLIN)
    in_time = bool(ready.poll(TRIAL_S * 1000))
    if not in_time:
        os.kill(pid, signals.SIGKILL)
    answer = os.read(reading, 4096)
    os.close(reading)
    os.waitpid(pid, 0)
    if len(answer) == len(hierarchies):
        return list(answer)
    return [errno.EPERM if in_time else errno.ETIMEDOUT] * len(hierarchies)


def _run_trial(hierarchies: list[Hierarchy], owner: Owner | None, answer_fd: int) -> NoReturn:
    try:
        joined = [_errno_of(hierarchy.enter) for hierarchy in hierarchies]
        if owner is not None and os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(owner[1], owner[1], owner[1])
            os.setresuid(owner[0], owner[0], owner[0])
        made = [_errno_of(hierarchy.try_folder) for hierarchy in hierarchies]
        answers = [first or second for first, second in zip(joined, made, strict=True)]
        os.write(answer_fd, bytes(answers))
    finally:
        os._exit(0)


def _errno_of(step: Callable[[], None]) -> int:
    try:
        step()
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _conclude(parent: Parent, failures: dict[str, str]) -> None:
    """Fill in `controllers`, `reasons` and `kind` from what was made."""
    usable = {name for hierarchy in parent.hierarchies for name in hierarchy.controllers}
    disabled = layout.disabled_controllers()
    for name in CONTROLLERS:
        parent.controllers[name] = name in usable
        if name in usable:
            continue
        if name in disabled:
            parent.reasons[name] = reasons.of_switched_off(name)
        else:
            parent.reasons[name] = failures.get(name) or reasons.of_no_mount(name)
    if not any(parent.controllers.values()):
        parent.kind = "none"
