"""Which folder of the v2 tree is ours to divide: to move its processes and enable controllers.

A folder with processes cannot have limited groups below it (cgroup-v2.rst, "no internal process
constraint"). Moving processes changes what others see, so it is done without being asked only
where systemd has handed the folder to us, or where nobody but this session can notice.
"""

from __future__ import annotations

import os

from pytest_rootfs.kernel import cgroups_scope as scope
from pytest_rootfs.kernel import cgroups_v2 as v2
from pytest_rootfs.kernel.proc_files import read_text, stat_fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_rootfs.kernel.cgroups_layout import Mount


def is_ours(mount: Mount, folder: str) -> bool:
    """Tell whether a folder may be divided though the user has not named it.

    The root of the tree may, too: it can hold both, and one more controller takes nothing from
    anybody.
    """
    if v2.is_tree_root(folder):
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
    if os.path.basename(own) == v2.LEAF:
        own = os.path.dirname(own)
        return own if os.access(own, os.W_OK) else None
    return own if v2.is_delegated(own) or os.path.basename(own) == scope.unit_name() else None


def lacks_delegation(mount: Mount) -> bool:
    """Tell whether an ordinary user could use this tree, but for a folder of his own in it."""
    return (
        mount.version == 2
        and not mount.is_read_only
        and mount.own is not None
        and os.geteuid() != 0
        and handed_over(mount) is None
    )


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
