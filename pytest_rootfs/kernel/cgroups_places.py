"""Find where control groups could be made: in which folders, and by which systemd; looks only.

The head of every report asks here, so this imports next to nothing.
"""

from __future__ import annotations

import os

from pytest_rootfs.kernel import cgroups_layout as layout
from pytest_rootfs.kernel import cgroups_rights as rights
from pytest_rootfs.kernel.cgroups_layout import CONTROLLERS, FIGURES_ONLY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_rootfs.kernel.cgroups_layout import Kind, Mount

PRIVATE_SOCKET = "/systemd/private"
"""Of the user's systemd itself, which is there without a bus daemon, too."""


def survey(
    explicit: str | None = None, sockets: Sequence[str] | None = None
) -> tuple[Kind, dict[str, bool]]:
    """Guess, by looking only, what `find_parent` would find: for a report's header, in 1 ms."""
    mounts = useful_mounts()
    usable = dict.fromkeys(CONTROLLERS, False)
    for mount in mounts:
        if explicit is None and sockets and rights.lacks_delegation(mount):
            found = _scope_controllers(mount.ancestry(), mount.controllers)
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


def systemd_sockets(environment: Mapping[str, str]) -> list[str]:
    """Return the sockets at which our user's systemd may listen, best first; none for root.

    Root needs no scope: every folder is writable. An abstract socket begins with a zero byte.
    """
    uid = os.geteuid()
    if uid == 0:
        return []
    folders = [environment.get("XDG_RUNTIME_DIR", ""), f"/run/user/{uid}"]
    found = [
        *_unix_addresses(environment.get("DBUS_SESSION_BUS_ADDRESS", "")),
        *(f"{folder}/bus" for folder in folders if folder),
        *(f"{folder}{PRIVATE_SOCKET}" for folder in folders if folder),
    ]
    return [address for address in dict.fromkeys(found) if _may_be_ours(address, uid)]


def _explicit_folders(mount: Mount, explicit: str) -> list[str]:
    folders = []
    for entry in explicit.split(":"):
        path = os.path.normpath(os.path.join(mount.path, entry))
        if path == mount.path or path.startswith(f"{mount.path}/"):
            folders.append(path)
    return folders


def _v2_offer(mount: Mount, folder: str, explicit: str | None) -> tuple[str, ...]:
    can_enable = explicit is not None or rights.is_ours(mount, folder)
    found = layout.available_in(folder) if can_enable else layout.enabled_in(folder)
    return tuple(name for name in (*CONTROLLERS, *FIGURES_ONLY) if name in found)


def _scope_controllers(ancestry: Sequence[str], otherwise: tuple[str, ...]) -> tuple[str, ...]:
    """Return the controllers that a scope would have: those given to the user's systemd.

    `ancestry` is our own folder and those above it; `otherwise` is the answer where none of them
    has the usual place of a user's systemd.
    """
    name = f"user@{os.geteuid()}.service"
    for folder in ancestry:
        for place in (folder, f"{folder}/{name}"):
            if os.path.basename(place) == name and os.path.isdir(place):
                return layout.available_in(place)
    return otherwise


def _unix_addresses(text: str) -> Iterator[str]:
    """Yield the unix sockets in a D-Bus address list: `unix:path=/run/bus,guid=…;tcp:…`."""
    for entry in text.split(";"):
        transport, _, rest = entry.partition(":")
        keys = dict(pair.partition("=")[::2] for pair in rest.split(","))
        if transport == "unix" and "path" in keys:
            yield _unescaped(keys["path"])
        elif transport == "unix" and "abstract" in keys:
            yield "\0" + _unescaped(keys["abstract"])


def _unescaped(text: str) -> str:
    """Undo `%20`: an address's bytes beyond letters, digits and `-_/.*` are so written."""
    first, *escaped = text.encode().split(b"%")
    try:
        parts = [bytes([int(part[:2], 16)]) + part[2:] for part in escaped]
    except ValueError:
        return ""
    path = first + b"".join(parts)
    return "" if b"\0" in path else os.fsdecode(path)


def _may_be_ours(address: str, uid: int) -> bool:
    if address.startswith("\0"):
        return True  # who listens there is asked after connecting
    try:
        return os.stat(address).st_uid == uid
    except (OSError, ValueError):
        return False
