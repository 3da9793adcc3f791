"""What the head of a report says of this host: read in a millisecond or two, nothing tried.

The words are those of errors and of `doctor`, which tries.
"""

from __future__ import annotations

import os

from pytest_rootfs.kernel import cgroups_layout, cgroups_places
from pytest_rootfs.runtime.ids import Ids, find_ids
from pytest_rootfs.runtime.surroundings import Surroundings, foreseen


def refusal_foreseen() -> str:
    """Return why no container can be started here, "" if nothing that can be read says so."""
    return foreseen(Surroundings.read()).reason


def ids() -> Ids:
    """Return the ids that containers will have."""
    return find_ids()


def limits() -> tuple[str, str]:
    """Return the kind of the control groups, and which limits cannot be enforced, and why."""
    sockets = cgroups_places.systemd_sockets(os.environ)
    kind, controllers = cgroups_places.survey(os.environ.get(cgroups_layout.SETTING), sockets)
    absent = [name for name, is_usable in controllers.items() if not is_usable]
    if not absent:
        return kind, ""
    what = f"no limits on {', '.join(absent)}" if len(absent) < len(controllers) else "no limits"
    return kind, f"{what}: {_why_absent(absent[0])}"


def _why_absent(name: str) -> str:
    from pytest_rootfs.kernel import cgroups_reasons  # noqa: PLC0415  most hosts can do all

    mounts = cgroups_layout.read_mounts()
    mount = next((each for each in mounts if name in each.controllers), None) or next(
        (each for each in mounts if each.version == 2), None
    )
    if mount is None:
        reason = cgroups_reasons.of_no_mount(name)
    elif mount.is_read_only:
        reason = cgroups_reasons.of_read_only(mount)
    else:
        reason = cgroups_reasons.of_undelegated(mount.own)
    return reason.partition("; ")[0]
