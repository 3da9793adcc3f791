"""Decide which host ids the users of a container become; subuid(5), newuidmap(1).

Three modes: root uses a range of its own or a high unused one, an ordinary user its subordinate
range, and without one a single id: then only the container's root exists.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pytest_rootfs.kernel import namespaces

ROOT_FALLBACK = (1_879_048_192, 65536)
"""0x70000000: above what distributions give to people, below what systemd-nspawn picks last."""

WHOLE = [(0, (1 << 32) - 1)]
"""What the initial user namespace has."""

Mode = Literal["rootful", "rootless", "rootless, single id"]
Map = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ids:
    """The id maps of the session's user namespace; lines are (inside, outside, count)."""

    mode: Mode
    uid_map: Map
    gid_map: Map
    needs_helper: bool = False
    """Whether newuidmap and newgidmap write the maps; else whoever runs this may do it directly."""

    reason: str = ""
    """Why only one id is mapped, and the way out; empty otherwise."""

    @property
    def owner(self) -> tuple[int, int]:
        """The host's uid and gid of the container's root."""
        return self.uid_map[0][1], self.gid_map[0][1]

    @property
    def is_single(self) -> bool:
        """Tell whether only the container's root exists."""
        return self.mode == "rootless, single id"

    @property
    def key(self) -> str:
        """A short name for these maps: layers unpacked under one cannot be used under another."""
        text = repr((self.uid_map, self.gid_map)).encode()
        return f"{self.owner[0]}-{hashlib.sha256(text).hexdigest()[:12]}"


def find_ids(*, uid: int | None = None, gid: int | None = None, subid_folder: str = "/etc") -> Ids:
    """Choose the maps for a user (default: the one that runs this process)."""
    if uid is None and (nested := _ids_of_namespace()) is not None:
        return nested
    uid = os.getuid() if uid is None else uid
    gid = os.getgid() if gid is None else gid
    name = _user_name(uid)
    uids = namespaces.read_subordinate_ranges(f"{subid_folder}/subuid", name, uid)
    gids = namespaces.read_subordinate_ranges(f"{subid_folder}/subgid", name, uid)
    if uid == 0:
        return Ids(
            mode="rootful",
            uid_map=_whole(uids) or ((0, *ROOT_FALLBACK),),
            gid_map=_whole(gids) or ((0, *ROOT_FALLBACK),),
        )
    reason = _why_single(name, uids, gids)
    if reason:
        return Ids(
            mode="rootless, single id",
            uid_map=((0, uid, 1),),
            gid_map=((0, gid, 1),),
            reason=reason,
        )
    return Ids(
        mode="rootless",
        uid_map=((0, uid, 1), *namespaces.map_ranges(uids, first_inside=1)),
        gid_map=((0, gid, 1), *namespaces.map_ranges(gids, first_inside=1)),
        needs_helper=True,
    )


def _ids_of_namespace() -> Ids | None:
    """Return the maps for root of a user namespace, as in a rootless podman; None elsewhere.

    Such a root may hand on the ids that its namespace has, and no others.
    """
    uids, gids = _mapped("/proc/self/uid_map"), _mapped("/proc/self/gid_map")
    if os.getuid() != 0 or uids == WHOLE:
        return None
    lines = [
        ((0, 0, 1), *namespaces.map_ranges(_without_root(ranges), first_inside=1))
        for ranges in (uids, gids)
    ]
    if any(len(each) == 1 for each in lines):
        return Ids(
            mode="rootless, single id",
            uid_map=lines[0][:1],
            gid_map=lines[1][:1],
            reason="this process is root of a user namespace with a single id: run it outside",
        )
    return Ids(mode="rootless", uid_map=lines[0], gid_map=lines[1])


def _mapped(path: str) -> list[tuple[int, int]]:
    """Return the (first id, count) ranges that exist in this user namespace."""
    fields = [line.split() for line in Path(path).read_text().splitlines()]
    return [(int(inside), int(count)) for inside, _, count in fields]


def _without_root(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return [(max(first, 1), count - (first == 0)) for first, count in ranges]


def find_helper(name: str) -> str | None:
    """Return the path of newuidmap or newgidmap if it has the privilege that it needs."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/bin:/bin:/usr/sbin")
    if path is None:
        return None
    if os.stat(path).st_mode & stat.S_ISUID:
        return path
    try:
        return path if os.getxattr(path, "security.capability") else None
    except OSError:
        return None


def _why_single(name: str, uids: list[tuple[int, int]], gids: list[tuple[int, int]]) -> str:
    if not uids or not gids:
        file = "/etc/subuid" if not uids else "/etc/subgid"
        return (
            f"user {name} has no range in {file}: "
            f"sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}"
        )
    for helper in ("newuidmap", "newgidmap"):
        if find_helper(helper) is None:
            return f"{helper} is missing or has no privilege: sudo apt-get install uidmap"
    return ""


def _whole(ranges: list[tuple[int, int]]) -> Map:
    """Use root's own ranges only when they cover all 65536 ids."""
    lines = namespaces.map_ranges(ranges, first_inside=0)
    return tuple(lines) if sum(count for *_, count in lines) == 65536 else ()


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
