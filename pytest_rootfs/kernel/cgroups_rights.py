"""Which control groups are ours: those that we have made, and those that we may divide.

What we make is told by its name. To divide a folder of the v2 tree is to move its processes and to
enable controllers: a folder with processes cannot have limited groups below it (cgroup-v2.rst, "no
internal process constraint"). That changes what others see, so it is done without being asked only
where systemd has handed the folder to us, or where nobody but this session can notice.
"""

from __future__ import annotations

import os

from pytest_rootfs.kernel.proc_files import read_text, start_time, stat_fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_rootfs.kernel.cgroups_layout import Mount

PREFIX = "pytest-rootfs-"
LEAF = f"{PREFIX}leaf"


def session_name() -> str:
    """Return the name of the calling process's folder: boot, pid, start time."""
    pid = os.getpid()
    return f"{PREFIX}{_boot_id8()}-{pid}-{start_time(pid)}"


def is_orphan(name: str) -> bool:
    """Tell whether a session folder's name says that its owner is gone."""
    parts = name.removeprefix(PREFIX).split("-")
    if not name.startswith(PREFIX) or len(parts) != 3:
        return False
    if not (parts[1].isdigit() and parts[2].isdigit()):
        return False  # systemd's own, which ends in .scope
    boot_id8, pid, started = parts
    return boot_id8 != _boot_id8() or start_time(int(pid)) != started


def unit_name() -> str:
    """Return the name of the calling process's scope, which is also its folder's."""
    return f"{session_name()}.scope"


def is_ours(mount: Mount, folder: str) -> bool:
    """Tell whether a folder may be divided though the user has not named it.

    The root of the tree may, too: it can hold both, and one more controller takes nothing from
    anybody.
    """
    if is_tree_root(folder):
        return True
    return folder == handed_over(mount) or (
        is_namespace_root(mount, folder) and not strangers(folder)
    )


def handed_over(mount: Mount) -> str | None:
    """Return the folder that systemd has delegated to this session, None if it has not.

    The scope that we have asked for is told by its name: older versions leave no mark that an
    ordinary user can read. Another worker of the session may have moved us into a leaf already.
    """
    own = mount.own
    if own is None:
        return None
    if os.path.basename(own) == LEAF:
        own = os.path.dirname(own)
        return own if os.access(own, os.W_OK) else None
    return own if is_delegated(own) or os.path.basename(own) == unit_name() else None


def lacks_delegation(mount: Mount) -> bool:
    """Tell whether an ordinary user could use this tree, but for a folder of his own in it."""
    return (
        mount.version == 2
        and not mount.is_read_only
        and mount.own is not None
        and os.geteuid() != 0
        and handed_over(mount) is None
    )


def is_delegated(path: str) -> bool:
    """Tell whether systemd has handed this folder to its processes (CGROUP_DELEGATION.md)."""
    for attribute in ("user.delegate", "trusted.delegate"):
        try:
            if os.getxattr(path, attribute) == b"1":
                return True
        except OSError:
            continue  # no such mark, or not for us to read
    return False


def is_tree_root(path: str) -> bool:
    """Tell whether this is the root of the whole tree, the one folder that may hold both."""
    return not os.path.exists(f"{path}/cgroup.type")


def is_namespace_root(mount: Mount, folder: str) -> bool:
    """Tell whether a folder is all that a container sees of the tree, and writable there."""
    return folder == mount.own == mount.path and os.access(f"{folder}/cgroup.procs", os.W_OK)


def strangers(folder: str) -> list[int]:
    """Return the processes in a folder that are neither above us nor of our process session.

    The session is that of whoever started us: all xdist workers are in one, another `docker exec`
    is not. 0 stands for a process that our pid namespace does not show.
    """
    session = os.getsid(0)
    if session == os.getpid():  # we were started as a session of our own, as the warden is
        session = os.getsid(os.getppid())
    ancestors = _lineage(os.getpid())
    pids = [int(pid) for pid in read_text(f"{folder}/cgroup.procs").split()]
    return [pid for pid in pids if pid not in ancestors and session not in _lineage(pid)]


def _lineage(pid: int) -> list[int]:
    """Return a process and those above it; the process alone when it has ended meanwhile."""
    found = [pid]
    while fields := stat_fields(found[-1]):
        found.append(int(fields[1]))
    return found


def _boot_id8() -> str:
    return read_text("/proc/sys/kernel/random/boot_id")[:8]
