"""Read where this host keeps its control groups, and where in them the calling process is.

Only looks: makes nothing, tries nothing. A controller (memory, pids, cpu) lives either in a v1
hierarchy of its own, or in the v2 tree; on a hybrid host each where it is.
"""

from __future__ import annotations

import os

from pytest_rootfs.kernel.proc_files import read_text, unescaped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    Kind = Literal["v1", "hybrid", "v2", "none"]

SETTING = "PYTEST_ROOTFS_CGROUP"
"""The environment variable that names the folder to use, and then the only one."""
CONTROLLERS = ("memory", "pids", "cpu")
"""What a limit can be set on."""
FIGURES_ONLY = ("cpuacct", "io")
"""What only gives figures: v1 has processor time in a hierarchy that may be apart from `cpu`."""


class Mount:
    """One mounted control group file system.

    `own` is the folder of the calling process seen through it, None when that lies outside.
    """

    __slots__ = ("controllers", "is_read_only", "own", "path", "version")

    def __init__(
        self,
        path: str,
        *,
        version: int,
        controllers: tuple[str, ...],
        is_read_only: bool,
        own: str | None,
    ) -> None:
        self.path = path
        self.version = version
        self.controllers = controllers
        self.is_read_only = is_read_only
        self.own = own

    def ancestry(self) -> list[str]:
        """Return the own folder and those above it, nearest first, up to the mount."""
        if self.own is None:
            return []
        folders = [self.own]
        while folders[-1] != self.path:
            folders.append(os.path.dirname(folders[-1]))
        return folders


def read_mounts() -> list[Mount]:
    """Return one usable mount a hierarchy, the writable one if there are several."""
    if not os.path.exists("/proc/self/cgroup"):
        return []  # a kernel without control groups
    own_paths = parse_own(read_text("/proc/self/cgroup"))
    chosen: dict[tuple[int, tuple[str, ...]], Mount] = {}
    for mount in parse_mounts(read_text("/proc/self/mountinfo"), own_paths):
        key = (mount.version, mount.controllers)
        if key not in chosen or _rank(mount) > _rank(chosen[key]):
            chosen[key] = mount
    return list(chosen.values())


def kind_of(mounts: list[Mount]) -> Kind:
    """Name the host's arrangement by what is mounted."""
    versions = {mount.version for mount in mounts}
    if versions == {1, 2}:
        return "hybrid"
    return "v1" if versions == {1} else "v2" if versions == {2} else "none"


def enabled_in(path: str) -> tuple[str, ...]:
    """Return the controllers that the children of a folder have."""
    try:
        return tuple(read_text(f"{path}/cgroup.subtree_control").split())
    except OSError:
        return ()


def available_in(path: str) -> tuple[str, ...]:
    """Return the controllers that could be enabled for the children of a folder."""
    try:
        return tuple(read_text(f"{path}/cgroup.controllers").split())
    except OSError:
        return ()


def disabled_controllers() -> set[str]:
    """Return the controllers that the kernel's command line has switched off."""
    try:
        rows = [line.split() for line in read_text("/proc/cgroups").splitlines()]
    except FileNotFoundError:
        return set()
    return {row[0] for row in rows if len(row) == 4 and row[3] == "0"}


def parse_own(text: str) -> dict[str, str]:
    """Return the path of each v1 controller, and of v2 under "", from /proc/PID/cgroup."""
    paths = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            paths[controller] = path
    return paths


def parse_mounts(mountinfo: str, own_paths: dict[str, str]) -> list[Mount]:
    """Return the control group mounts in mountinfo that are not hidden by another mount."""
    mounts: dict[str, Mount] = {}
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        if not right.startswith("cgroup"):
            continue
        fields, (fs_type, _, options) = left.split(), right.split(" ", 2)
        path, is_read_only = unescaped(fields[4]), "ro" in fields[5].split(",")
        if not _is_seen(path, fields[2]):
            continue
        if fs_type == "cgroup2":
            version, controllers, key = 2, _v2_controllers(path), ""
        elif fs_type == "cgroup":
            known = (*CONTROLLERS, *FIGURES_ONLY)
            controllers = tuple(name for name in known if name in options.strip().split(","))
            version, key = 1, controllers[0] if controllers else "?"
        else:
            continue
        own = _seen_from(path, unescaped(fields[3]), own_paths.get(key))
        if controllers or version == 2:
            mounts[path] = Mount(
                path,
                version=version,
                controllers=controllers,
                is_read_only=is_read_only,
                own=own,
            )
    return list(mounts.values())


def _is_seen(path: str, device: str) -> bool:
    """Tell whether a path leads to that file system, not to one mounted there or above later."""
    try:
        found = os.stat(path).st_dev
    except OSError:
        return False
    return f"{os.major(found)}:{os.minor(found)}" == device


def _v2_controllers(path: str) -> tuple[str, ...]:
    try:
        available = read_text(f"{path}/cgroup.controllers").split()
    except OSError:
        return ()  # not for us to read, or gone: whoever tries it is told
    return tuple(name for name in (*CONTROLLERS, *FIGURES_ONLY) if name in available)


def _seen_from(mount_path: str, mount_root: str, own_path: str | None) -> str | None:
    """Translate a path in the hierarchy into one in the file system.

    Both are relative to our control group namespace; `/..` in front means outside of it.
    """
    if own_path is None or own_path.startswith("/..") or own_path.endswith(" (deleted)"):
        return None
    root = mount_root.rstrip("/")
    if own_path != root and not own_path.startswith(f"{root}/"):
        return None
    folder = os.path.normpath(f"{mount_path}/{own_path[len(root) :]}")
    return folder if os.path.isdir(folder) else None


def _rank(mount: Mount) -> tuple[bool, bool]:
    return mount.own is not None, not mount.is_read_only
