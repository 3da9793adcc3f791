"""Find the folders in which control groups could be made, by looking only.

The head of every report asks here, so this imports next to nothing.
"""

from __future__ import annotations

import os

from pytest_rootfs.kernel import cgroups_layout as layout
from pytest_rootfs.kernel import cgroups_rights as rights
from pytest_rootfs.kernel import cgroups_scope as scope
from pytest_rootfs.kernel import cgroups_v2 as v2
from pytest_rootfs.kernel.cgroups_layout import CONTROLLERS, FIGURES_ONLY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_rootfs.kernel.cgroups_layout import Kind, Mount


def survey(
    explicit: str | None = None, sockets: Sequence[str] | None = None
) -> tuple[Kind, dict[str, bool]]:
    """Guess, by looking only, what `find_parent` would find: for a report's header, in 1 ms."""
    mounts = useful_mounts()
    usable = dict.fromkeys(CONTROLLERS, False)
    for mount in mounts:
        if explicit is None and sockets and rights.lacks_delegation(mount):
            found = scope.controllers(mount.ancestry(), mount.controllers)
            usable.update({name: True for name in found if name in usable})
        for folder, controllers in candidates(mount, explicit):
            if os.access(folder, os.W_OK | os.X_OK):
                usable.update({name: True for name in controllers if name in usable})
                break
    return layout.kind_of(mounts) if any(usable.values()) else "none", usable


def useful_mounts() -> list[Mount]:
    """Return the mounts with a controller we use; v2 also without any when it is alone."""
    mounts = layout.read_mounts()
    wanted = {*CONTROLLERS, "cpuacct"}
    return [mount for mount in mounts if wanted & set(mount.controllers) or mount.version == 2]


def candidates(mount: Mount, explicit: str | None) -> list[tuple[str, tuple[str, ...]]]:
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
    can_enable = explicit is not None or rights.is_ours(mount, folder)
    found = v2.available_in(folder) if can_enable else v2.enabled_in(folder)
    return tuple(name for name in (*CONTROLLERS, *FIGURES_ONLY) if name in found)
