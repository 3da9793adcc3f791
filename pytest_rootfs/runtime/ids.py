"""Decide which host ids the users of a container become; subuid(5), newuidmap(1).

Three modes: root uses a range of its own or a high unused one, an ordinary user its subordinate
range, and without one a single id: then only the container's root exists.
"""

from __future__ import annotations

import hashlib
import os

from pytest_rootfs.kernel.proc_files import read_text
from pytest_rootfs.runtime import subordinate_ids, surroundings
from pytest_rootfs.runtime.gaps import NO_GAP, Gap
from pytest_rootfs.runtime.subordinate_ids import User, map_ranges

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    from pytest_rootfs.runtime.subordinate_ids import Kind

    Mode = Literal["rootful", "rootless", "rootless, single id"]
    Map = tuple[tuple[int, int, int], ...]

ROOT_FALLBACK = (1_879_048_192, 65536)
"""0x70000000: above what distributions give to people, below what systemd-nspawn picks last."""


class Ids:
    """The id maps of the session's user namespace; lines are (inside, outside, count)."""

    # a plain class: the head of every report makes one, and a dataclass would cost it 0.5 ms
    __slots__ = ("gap", "gid_map", "mode", "needs_helper", "uid_map")

    def __init__(
        self,
        *,
        mode: Mode,
        uid_map: Map,
        gid_map: Map,
        needs_helper: bool = False,
        gap: Gap = NO_GAP,
    ) -> None:
        self.mode: Mode = mode
        self.uid_map = uid_map
        self.gid_map = gid_map
        self.needs_helper = needs_helper
        """Whether newuidmap and newgidmap write the maps; else who runs this may do it directly."""
        self.gap = gap
        """Which of the 65536 ids are missing, why, and the way out."""

    @property
    def owner(self) -> tuple[int, int]:
        """The host's uid and gid of the container's root."""
        return self.uid_map[0][1], self.gid_map[0][1]

    @property
    def is_single(self) -> bool:
        """Tell whether only the container's root exists."""
        return self.mode == "rootless, single id"

    @property
    def count(self) -> int:
        """How many ids a container has: those from 0 up to this, for users and groups alike."""
        return _count(self.uid_map, self.gid_map)

    @property
    def key(self) -> str:
        """A short name for these maps: layers unpacked under one cannot be used under another."""
        text = repr((self.uid_map, self.gid_map)).encode()
        return f"{self.owner[0]}-{hashlib.sha256(text).hexdigest()[:12]}"


def find_ids(*, uid: int | None = None, gid: int | None = None, subid_folder: str = "/etc") -> Ids:
    """Choose the maps for a user (default: the one that runs this process)."""
    if uid is None and (limited := _ids_of_limited_root()) is not None:
        return limited
    uid = os.getuid() if uid is None else uid
    gid = os.getgid() if gid is None else gid
    user = User(uid, gid, subid_folder)
    return _ids_of_root(user) if uid == 0 else _ids_of_ordinary_user(user)


def _ids_of_root(user: User) -> Ids:
    return Ids(
        mode="rootful",
        uid_map=_whole(user, "uid") or ((0, *ROOT_FALLBACK),),
        gid_map=_whole(user, "gid") or ((0, *ROOT_FALLBACK),),
    )


def _whole(user: User, kind: Kind) -> Map:
    """Use root's own ranges only when they cover all 65536 ids."""
    lines = map_ranges(subordinate_ids.ranges_of(user, kind)[0], first_inside=0)
    return tuple(lines) if sum(count for *_, count in lines) == 65536 else ()


def _ids_of_ordinary_user(user: User) -> Ids:
    uids, uid_gap = subordinate_ids.ranges_of(user, "uid")
    gids, gid_gap = subordinate_ids.ranges_of(user, "gid")
    if gap := uid_gap or gid_gap or subordinate_ids.helper_gap(user):
        return _single(user.uid, user.gid, gap)
    uid_map = ((0, user.uid, 1), *map_ranges(uids, first_inside=1))
    gid_map = ((0, user.gid, 1), *map_ranges(gids, first_inside=1))
    shortage = _shortage(uid_map, gid_map, f"user {user.name} has", user.add_ranges)
    return Ids(mode="rootless", uid_map=uid_map, gid_map=gid_map, needs_helper=True, gap=shortage)


def _single(uid: int, gid: int, gap: Gap) -> Ids:
    return Ids(mode="rootless, single id", uid_map=((0, uid, 1),), gid_map=((0, gid, 1),), gap=gap)


def _shortage(uids: Map, gids: Map, who_has: str, repair: str) -> Gap:
    """Say that maps hold fewer ids than a container can have."""
    count = _count(uids, gids)
    if count == 65536:
        return NO_GAP
    reason = f"{who_has} {count} ids, a container's users above {count - 1} do not exist"
    return Gap(reason=reason, repair=repair)


def _count(*maps: Map) -> int:
    return min(sum(line[2] for line in lines) for lines in maps)


def _ids_of_limited_root() -> Ids | None:
    """Return the maps for a root that may not mount outside, None for every other user.

    Such a root, as in a rootless podman or a docker with its default capabilities, is like an
    ordinary user; but it may hand on all ids that its user namespace has.
    """
    if os.getuid() != 0 or surroundings.is_root_of_host():
        return None
    from pytest_rootfs.kernel import capabilities  # noqa: PLC0415  root only

    uids, gids = _mapped("/proc/self/uid_map"), _mapped("/proc/self/gid_map")
    own = capabilities.effective()
    uid_map = ((0, 0, 1), *map_ranges(_without_root(uids), first_inside=1))
    gid_map = ((0, 0, 1), *map_ranges(_without_root(gids), first_inside=1))
    if 1 in (len(uid_map), len(gid_map)):
        what = "this process is root of a user namespace with a single id"
        return _single(0, 0, Gap(reason=what, repair="run pytest outside of it"))
    if lacking := [name for name in ("SETUID", "SETGID") if name not in own]:
        what = f"this process is root without the capability {' and '.join(lacking)}"
        options = " ".join(f"--cap-add {name}" for name in lacking)
        return _single(0, 0, Gap(reason=what, repair=f"docker run {options} …"))
    shortage = _shortage(uid_map, gid_map, "this user namespace has", "run pytest outside of it")
    return Ids(mode="rootless", uid_map=uid_map, gid_map=gid_map, gap=shortage)


def _mapped(path: str) -> list[tuple[int, int]]:
    """Return the (first id, count) ranges that exist in this user namespace."""
    fields = [line.split() for line in read_text(path).splitlines()]
    return [(int(inside), int(count)) for inside, _, count in fields]


def _without_root(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return [(max(first, 1), count - (first == 0)) for first, count in ranges]
