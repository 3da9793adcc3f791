"""Limit and measure the processes of a container: control groups v1, hybrid, v2, or none.

The warden, which has the rights of whoever runs pytest, makes one session folder in every
hierarchy that can be used (`find_parent`); the spawner, forked from it, makes one group a
container below (`Parent.create`) through the descriptors it inherits. Candidates are tried, not
assumed: a process joins, a folder is made and removed by the owner-to-be.

Only folders named `pytest-rootfs-…` are ever made or removed, and no process is moved but out of a
folder that was handed to us. Raises `OSError` only.
"""

from __future__ import annotations

import errno
import os

from pytest_rootfs.kernel import cgroups_files as files
from pytest_rootfs.kernel import cgroups_layout as layout
from pytest_rootfs.kernel import cgroups_v2 as v2
from pytest_rootfs.kernel.cgroups_layout import CONTROLLERS, FIGURES_ONLY
from pytest_rootfs.kernel.cgroups_session import FIGURES, Group, Parent
from pytest_rootfs.kernel.cgroups_v1 import V1Hierarchy
from pytest_rootfs.kernel.cgroups_v2 import V2Hierarchy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from pytest_rootfs.kernel.cgroups_files import Owner
    from pytest_rootfs.kernel.cgroups_hierarchy import Hierarchy
    from pytest_rootfs.kernel.cgroups_layout import Kind, Mount

__all__ = ["CONTROLLERS", "FIGURES", "SETTING", "Group", "Parent", "find_parent", "survey"]

SETTING = "PYTEST_ROOTFS_CGROUP"
"""The environment variable whose value is `find_parent`'s `explicit`."""


def find_parent(
    explicit: str | None = None, owner: Owner | None = None, *, init_pids: int = 1
) -> Parent:
    """Find where groups can be made, make the session's folders there, and try them.

    `explicit` is the user's setting, and then the only place that is tried: a path below a control
    group mount, or one relative to every mount; several are joined by ":". `owner` is the (uid,
    gid) on the host that the spawner will have. `init_pids` is what an init needs of `pids` on v1,
    where it is in the limited group. Raises nothing for lack of rights: that is in `reasons`.
    """
    mounts = _useful_mounts()
    parent = Parent(files.session_name(), layout.kind_of(mounts))
    failures: dict[str, str] = {}
    for mount in mounts:
        made = _make(mount, explicit, parent.name, owner, failures)
        if isinstance(made, V1Hierarchy):
            made.init_pids = init_pids
        if made is not None:
            parent.hierarchies.append(made)
    _drop_unusable(parent, owner, failures)
    _conclude(parent, failures)
    return parent


def survey(explicit: str | None = None) -> tuple[Kind, dict[str, bool]]:
    """Guess, by looking only, what `find_parent` would find: for a report's header, in 1 ms."""
    mounts = _useful_mounts()
    usable = dict.fromkeys(CONTROLLERS, False)
    for mount in mounts:
        for folder, controllers in _candidates(mount, explicit):
            if os.access(folder, os.W_OK | os.X_OK):
                usable.update({name: True for name in controllers if name in usable})
                break
    return layout.kind_of(mounts) if any(usable.values()) else "none", usable


def _useful_mounts() -> list[Mount]:
    """Return the mounts with a controller we use; v2 also without any when it is alone."""
    mounts = layout.read_mounts()
    wanted = {*CONTROLLERS, "cpuacct"}
    return [mount for mount in mounts if wanted & set(mount.controllers) or mount.version == 2]


def _candidates(mount: Mount, explicit: str | None) -> list[tuple[str, tuple[str, ...]]]:
    """Return the folders to try, best first, each with the controllers that it can give."""
    folders = mount.ancestry() if explicit is None else _explicit_folders(mount, explicit)
    if mount.version == 1:
        return [(folder, mount.controllers) for folder in folders]
    offers = [(folder, _v2_offer(mount, folder, explicit)) for folder in folders]
    useful = [offer for offer in offers if set(offer[1]) & set(CONTROLLERS)]
    return sorted(useful, key=lambda offer: -len(set(offer[1]) & set(CONTROLLERS)))


def _explicit_folders(mount: Mount, explicit: str) -> list[str]:
    folders = []
    for entry in explicit.split(":"):
        path = os.path.normpath(os.path.join(mount.path, entry))
        if path == mount.path or path.startswith(f"{mount.path}/"):
            folders.append(path)
    return folders


def _v2_offer(mount: Mount, folder: str, explicit: str | None) -> tuple[str, ...]:
    can_enable = _may_prepare(mount, folder, explicit)
    found = v2.available_in(folder) if can_enable else v2.enabled_in(folder)
    return tuple(name for name in (*CONTROLLERS, *FIGURES_ONLY) if name in found)


def _may_prepare(mount: Mount, folder: str, explicit: str | None) -> bool:
    """Tell whether a v2 folder is ours to enable controllers in, and to move processes below.

    That is: named by the user, or delegated by systemd to us; and the root of the tree, where
    enabling one more takes nothing from anybody. Asking systemd for a scope of our own
    (StartTransientUnit) would be one more candidate in front of these.
    """
    if explicit is not None or v2.is_tree_root(folder):
        return True
    return folder == mount.own and v2.is_delegated(folder)


def _make(
    mount: Mount, explicit: str | None, name: str, owner: Owner | None, failures: dict[str, str]
) -> Hierarchy | None:
    """Make the session's folder in the first candidate that takes it, or say why none does."""
    candidates = _candidates(mount, explicit)
    if not candidates:
        failures.update(dict.fromkeys(mount.controllers, _no_candidate(mount, explicit)))
    for folder, controllers in candidates:
        try:
            made = _make_in(folder, mount, explicit, name, controllers, owner)
        except OSError as error:
            for controller in mount.controllers:
                failures.setdefault(controller, _refused(mount, error))
            continue
        for controller in mount.controllers:
            failures[controller] = made.missing.get(controller) or _not_given(controller, folder)
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
    if _may_prepare(mount, folder, explicit):
        _prepare(folder, controllers)
    return V2Hierarchy(folder, name, controllers, owner)


def _prepare(folder: str, controllers: tuple[str, ...]) -> None:
    """Enable controllers for the children of a folder that is ours."""
    missing = tuple(name for name in controllers if name not in v2.enabled_in(folder))
    if not missing:
        return
    if not v2.is_tree_root(folder):
        v2.evacuate(folder)
    handle = files.Folder(folder)
    v2.enable(handle, missing)
    handle.close()


def _drop_unusable(parent: Parent, owner: Owner | None, failures: dict[str, str]) -> None:
    """Give back the hierarchies in which the trial failed, or that lack every controller."""
    hierarchies = parent.hierarchies[:]
    for hierarchy, number in zip(hierarchies, _try_all(hierarchies, owner), strict=True):
        if number:
            what = f"joining {hierarchy.folder.path} fails: {os.strerror(number)}"
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
    answer = os.read(reading, 4096)
    os.close(reading)
    os.waitpid(pid, 0)
    return list(answer) if len(answer) == len(hierarchies) else [errno.EPERM] * len(hierarchies)


def _run_trial(hierarchies: list[Hierarchy], owner: Owner | None, answer_fd: int) -> NoReturn:
    try:
        joined = [_errno_of(hierarchy, "enter") for hierarchy in hierarchies]
        if owner is not None and os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(owner[1], owner[1], owner[1])
            os.setresuid(owner[0], owner[0], owner[0])
        made = [_errno_of(hierarchy, "try_folder") for hierarchy in hierarchies]
        os.write(
            answer_fd, bytes(first or second for first, second in zip(joined, made, strict=True))
        )
    finally:
        os._exit(0)


def _errno_of(hierarchy: Hierarchy, step: str) -> int:
    try:
        if step == "enter":
            hierarchy.enter()
        else:
            hierarchy.try_folder()
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
            parent.reasons[name] = (
                f"the kernel has the {name} controller switched off; "
                f"boot it with cgroup_enable={name}"
            )
        elif name in failures:
            parent.reasons[name] = failures[name]
        else:
            parent.reasons[name] = (
                f"no control group file system with the {name} controller is mounted; "
                "in a container: start it with --privileged, or mount /sys/fs/cgroup into it"
            )
    if not any(parent.controllers.values()):
        parent.kind = "none"


def _refused(mount: Mount, error: OSError) -> str:
    """Say why a folder could not be made, with the way out."""
    what = f"{error.filename}: {error.strerror}"
    if mount.is_read_only or error.errno == errno.EROFS:
        return (
            f"{mount.path} is mounted read-only, as in a container without privileges; "
            "start that container with --privileged"
        )
    if error.errno not in (errno.EACCES, errno.EPERM):
        return f"{what}; name a folder that can be used in {SETTING}"
    if mount.version == 2:
        return f"{what}; {_WAY_OUT_V2}"
    return (
        f"{what}; run pytest as root, or let root make a folder for you, `mkdir {mount.path}/tests "
        f"&& chown -R $USER {mount.path}/tests` and so in every hierarchy, and set {SETTING}=tests"
    )


_WAY_OUT_V2 = (
    "run `systemd-run --user --scope --property=Delegate=yes pytest …`, or run pytest as root"
)


def _no_candidate(mount: Mount, explicit: str | None) -> str:
    if explicit is not None:
        return f"{SETTING}={explicit} names no folder below {mount.path} with usable controllers"
    if mount.own is None:
        return (
            f"our own control group lies outside of what is mounted at {mount.path}; "
            f"name a folder below it in {SETTING}"
        )
    what = f"no controller is enabled for the children of {mount.own} or above it"
    if os.access(mount.own, os.W_OK):
        return f"{what}; set {SETTING}={mount.own} to have its processes moved into a leaf for that"
    return f"{what}; {_WAY_OUT_V2}"


def _not_given(name: str, base: str) -> str:
    if name in v2.available_in(base):
        return f"the {name} controller is not enabled for the children of {base}; {_WAY_OUT_V2}"
    return (
        f"the {name} controller is not delegated to {base}; let root put `[Service]` and "
        "`Delegate=cpu cpuset io memory pids` into "
        "/etc/systemd/system/user@.service.d/delegate.conf and log in again"
    )
