"""What it means on this host that the kernel refused something: the reason and the repair.

The words that errors, the report and `doctor` share, on top of `surroundings.refusal`, which has
those about namespaces and mounts as such.
"""

from __future__ import annotations

import errno
import os

from pytest_rootfs.errors import HostUnsupported
from pytest_rootfs.kernel.mounts import NESTED
from pytest_rootfs.runtime.gaps import NO_GAP, Gap
from pytest_rootfs.runtime.subordinate_ids import HELPERS, User
from pytest_rootfs.runtime.surroundings import Surroundings, refusal

OLDEST = (5, 11)
ATTRIBUTES_SINCE = (5, 12)
MAPPED_LAYERS_SINCE = (5, 19)

DENIED = (errno.EPERM, errno.EACCES)
LIMITED = (errno.ENOSPC, errno.EUSERS)
NAMESPACE_CALLS = ("unshare", "clone3", "clone", "setns", "write")
MOUNT_CALLS = (
    *("mount", "umount2", "pivot_root", "move_mount", "open_tree", "mount_setattr"),
    *("fsopen", "fsconfig", "fsmount", "overlay", "tmpfs"),
)
NO_FILTER_REPAIR = "run pytest outside of the sandbox or service that filters system calls"


def old_kernel(around: Surroundings) -> Gap:
    """Say that the kernel is too old for any container; no gap if it is not."""
    if around.wsl == 1:
        return Gap(
            reason="WSL 1 only imitates Linux, and has no containers",
            repair="wsl --set-version DISTRIBUTION 2, in Windows",
        )
    if around.kernel >= OLDEST or around.kernel == (0, 0):
        return NO_GAP
    return Gap(
        reason=f"Linux {around.release} is too old: before 5.11 a user namespace has no overlay",
        repair="wsl --update, in Windows" if around.wsl else "install a kernel of 5.11 or newer",
    )


def rw_on_disk(around: Surroundings) -> Gap:
    """Say why what a container writes is kept on disk: without a limit, and slower."""
    return Gap(
        reason="tmpfs has no user extended attributes before Linux 6.6, so rw layers are on disk",
        repair="wsl --update, in Windows" if around.wsl else "use a kernel of 6.6 or newer",
    )


def nested_overlay() -> Gap:
    """Say that the store's overlay lies on another: the kernel stacks two, and ours is a third."""
    return Gap(
        reason="the store is on an overlay of an overlay, on which the kernel stacks no third",
        repair="--rootfs-store=DIR on a disk (ext4, xfs, btrfs); inside docker on a volume, "
        "docker run -v rootfs:/var/tmp/rootfs …",
    )


def unmappable_host(around: Surroundings) -> Gap:
    """Say that root's containers cannot have the host's files below their own, with own ids."""
    what = "the file system of / takes no id maps (an overlay does not)"
    if around.kernel < MAPPED_LAYERS_SINCE:
        what = "an overlay takes no layers with id maps before Linux 5.19"
    return Gap(
        reason=f"image host cannot be used by root here: {what}",
        repair="run pytest as an ordinary user, or use another image, as minimal",
    )


def masked_proc(around: Surroundings) -> Gap:
    """Say that a container can have no proc of its own, and would see processes of the host."""
    return Gap(
        reason="parts of the /proc around us are masked, so no fresh one can be mounted",
        repair=around.outer_repair or "unmount what lies over it: findmnt --submounts /proc",
    )


def masked_sys(around: Surroundings) -> Gap:
    """Say that a container with a network of its own can have no sysfs that belongs to it."""
    return Gap(
        reason="parts of the /sys around us are masked, so no fresh one can be mounted",
        repair=around.outer_repair or "unmount what lies over it: findmnt --submounts /sys",
    )


def absent_overlay() -> Gap:
    """Say that the kernel has no overlay."""
    return Gap(
        reason="this kernel has no overlay file system, or its module is not loaded",
        repair="sudo modprobe overlay",
    )


def absent_call(call: str, around: Surroundings) -> Gap:
    """Say that a system call is missing, which every supported kernel has: it is filtered away."""
    if call == "mount_setattr" and around.kernel < ATTRIBUTES_SINCE:
        return Gap(
            reason="Linux 5.11 cannot restrict a mount tree (mount_setattr), which folders of the "
            'host and network="host" need',
            repair="install a kernel of 5.12 or newer",
        )
    where = f"of the {around.outer} around us" if around.outer else "on this process"
    return Gap(
        reason=f"a seccomp filter {where} denies {call}",
        repair=around.outer_repair or NO_FILTER_REPAIR,
    )


def unsupported(error: OSError) -> HostUnsupported | None:
    """Return the error for a refused call; None where the host is not to blame."""
    gap = explain(error, Surroundings.read())
    return HostUnsupported(gap.reason, detail=str(error), hint=gap.repair) if gap else None


def explain(error: OSError, around: Surroundings) -> Gap:
    """Return what a refused call means on this host; no gap where something else is to blame.

    The error is one of `kernel`: its filename begins with the name of the call.
    """
    call, _, argument = str(error.filename or "").partition(" ")
    number = error.errno or 0
    helper = os.path.basename(call)
    if helper in HELPERS:
        return _refused_ids(helper)
    call = call.rstrip(":")
    if call not in (*NAMESPACE_CALLS, *MOUNT_CALLS, "setresgid", "setresuid", "sethostname"):
        return NO_GAP
    if call == "overlay" and argument.startswith(NESTED):
        return nested_overlay()
    if call == "sethostname":  # always allowed to who has made the namespace
        return absent_call(call, around) if number in (*DENIED, errno.ENOSYS) else NO_GAP
    if number == errno.ENODEV and "overlay" in argument:
        return absent_overlay()
    if number == errno.ENOSYS and call != "unshare":
        return absent_call(_innermost(error, call), around)
    if number in DENIED and call == "mount" and argument.startswith("'proc'"):
        return masked_proc(around)
    if number in DENIED and call == "mount" and argument.startswith("'sysfs'"):
        return masked_sys(around)
    is_refused = number in DENIED or (number in LIMITED and call in NAMESPACE_CALLS)
    if is_refused or call == "unshare":
        return refusal(number, around)
    return NO_GAP


def _innermost(error: OSError, call: str) -> str:
    """Return the call behind what `kernel.mounts` names first: `tmpfs: fsconfig size=4096`."""
    innermost = str(error.filename).rpartition(": ")[2].partition(" ")[0]
    return innermost if innermost in MOUNT_CALLS else call


def _refused_ids(helper: str) -> Gap:
    user = User(os.getuid(), os.getgid(), "/etc").name
    return Gap(
        reason=f"{helper} refused to map the ids of user {user}",
        repair=f"`getsubids {user}` and `getsubids -g {user}` show which it allows",
    )
