"""Find the subordinate ids of a user, and whether newuidmap would map them.

subuid(5), getsubids(1), newuidmap(1). What is in the way is told in words that serve an error, the
head of a report and `doctor` alike.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
from pathlib import Path

from pytest_rootfs.runtime.gaps import NO_GAP, Gap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

    Kind = Literal["uid", "gid"]
    Range = tuple[int, int]
    """First id, how many."""

ID_COUNT = (1 << 32) - 1
"""All that there are: 4294967295 is (uid_t) -1, which chown(2) takes for "leave it"."""

HELPERS = ("newuidmap", "newgidmap")
GETSUBIDS_TIMEOUT_S = 10.0
INSTALL = (
    "sudo apt-get install uidmap (Fedora: sudo dnf install shadow-utils-subid, Arch: "
    "sudo pacman -S shadow)"
)


class User:
    """Who wants ids; one without an entry in passwd(5) is named by its number.

    `folder` has the files subuid, subgid and nsswitch.conf.
    """

    # a plain class, as `Gap` is

    def __init__(self, uid: int, gid: int, folder: str | os.PathLike[str]) -> None:
        self.uid = uid
        self.gid = gid
        self.folder = Path(folder)
        try:
            self.name, self.has_entry = pwd.getpwuid(uid).pw_name, True
        except KeyError:
            self.name, self.has_entry = str(uid), False

    def file(self, kind: Kind) -> Path:
        """Return the file of subordinate ids."""
        return self.folder / f"sub{kind}"

    @property
    def add_ranges(self) -> str:
        """The command that gives this user ranges."""
        return f"sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {self.name}"


def ranges_of(user: User, kind: Kind) -> tuple[list[Range], Gap]:
    """Return a user's subordinate ids of one kind, or why there are none that can be used."""
    path, own = user.file(kind), user.uid if kind == "uid" else user.gid
    try:
        source = _subid_module(user.folder)
        if source:
            return _ranges_of_module(user, kind, source)
        ranges, malformed = read_ranges(str(path), user.name, user.uid)
    except OSError as error:
        unread = error.filename or path
        what = f"{unread} cannot be read: {error.strerror}"
        return [], Gap(reason=what, repair=f"sudo chmod a+r {unread}")
    if malformed and not ranges:
        what = f"user {user.name} has no range in {path}, its line {malformed[0]!r} is malformed"
        return [], Gap(reason=what, repair=f"write it as {user.name}:100000:65536, with sudoedit")
    if not ranges:
        what = f"user {user.name} has no range in {path}"
        return [], Gap(reason=what, repair=user.add_ranges)
    for first, count in ranges:
        if user.uid != 0 and first <= own < first + count:
            what = f"the range {first}:{count} in {path} holds {kind} {own} of {user.name} itself"
            return [], Gap(
                reason=what,
                repair=f"sudo usermod --del-sub{kind}s {first}-{first + count - 1} "
                f"--add-sub{kind}s 100000-165535 {user.name}",
            )
    return ranges, NO_GAP


def read_ranges(path: str, user_name: str, user_id: int) -> tuple[list[Range], list[str]]:
    """Return a user's ranges from /etc/subuid or /etc/subgid, and its lines that make no range.

    Lines may name the user or its number; a user may have several; a missing file has none. The
    same lines are malformed to newuidmap, which passes over them in silence.
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.strip() for line in file]
    except FileNotFoundError:
        return [], []
    ranges, malformed = [], []
    for line in lines:
        owner, *numbers = line.split(":")
        if owner not in (user_name, str(user_id)):
            continue
        if (found := _range(numbers)) is not None:
            ranges.append(found)
        else:
            malformed.append(line)
    return ranges, malformed


def _range(numbers: Sequence[str]) -> Range | None:
    if len(numbers) != 2 or not all(text.isascii() and text.isdigit() for text in numbers):
        return None
    first, count = int(numbers[0][:20]), int(numbers[1][:20])
    return (first, count) if 0 < count <= ID_COUNT - first else None


def _subid_module(folder: Path) -> str:
    """Return what nsswitch.conf(5) names for subordinate ids instead of the files, "" for none."""
    try:
        text = (folder / "nsswitch.conf").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    for line in text.splitlines():
        key, _, value = line.partition("#")[0].partition(":")
        if key.strip() == "subid" and value.split()[:1] not in ([], ["files"]):
            return value.split()[0]
    return ""


def _ranges_of_module(user: User, kind: Kind, source: str) -> tuple[list[Range], Gap]:
    """Ask getsubids, as newuidmap asks the module: where there is one, no file counts."""
    conf = user.folder / "nsswitch.conf"
    program = shutil.which("getsubids", path=_search_path())
    if program is None:
        what = (
            f"{conf} takes subordinate ids from {source}, and getsubids, which asks it, is missing"
        )
        return [], Gap(reason=what, repair=INSTALL)
    argv = [program, *(["-g"] if kind == "gid" else []), user.name]
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, timeout=GETSUBIDS_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        what = f"getsubids {user.name} did not answer within {GETSUBIDS_TIMEOUT_S:.0f} seconds"
        return [], Gap(
            reason=what, repair=f"is the service of `subid: {source}` in {conf} running?"
        )
    ranges = [found for line in done.stdout.splitlines() if (found := _listed_range(line))]
    if ranges:
        return ranges, NO_GAP
    what = f"{source}, which {conf} names for subordinate ids, has no {kind} range for {user.name}"
    return [], Gap(reason=what, repair=f"check `{' '.join(argv)}`; an administrator assigns ranges")


def _listed_range(line: str) -> Range | None:
    """Parse a line of getsubids, `0: alice 100000 65536`."""
    words = line.split()[-2:]
    return (int(words[0]), int(words[1])) if all(word.isdigit() for word in words) else None


def map_ranges(ranges: Sequence[Range], *, first_inside: int) -> list[tuple[int, int, int]]:
    """Lay ranges one after the other from an id inside on, up to 65536 ids in all.

    The kernel takes no id twice, so what an earlier range has is left out of a later one. Ranges
    that touch stay apart: newuidmap wants every line inside of one range of the file.
    """
    lines: list[tuple[int, int, int]] = []
    for outside, size in _without_overlaps(ranges):
        count = min(size, 65536 - first_inside)
        if count > 0:
            lines.append((first_inside, outside, count))
            first_inside += count
    return lines


def _without_overlaps(ranges: Sequence[Range]) -> list[Range]:
    kept: list[Range] = []
    for given in ranges:
        pieces = [given]
        for taken in kept:
            pieces = [part for piece in pieces for part in _minus(piece, taken)]
        kept += pieces
    return kept


def _minus(piece: Range, taken: Range) -> list[Range]:
    """Return what remains of a range: up to two ranges, before and after the one taken out."""
    first, end = piece[0], sum(piece)
    before = (first, min(end, taken[0]) - first)
    behind = (max(first, sum(taken)), end - max(first, sum(taken)))
    return [part for part in (before, behind) if part[1] > 0]


def find_helper(name: str) -> str | None:
    """Return the path of newuidmap or newgidmap if it has the privilege that it needs."""
    path = shutil.which(name, path=_search_path())
    return None if path is None or _without_privilege(path) else path


def helper_gap(user: User) -> Gap:
    """Say why newuidmap and newgidmap would not map this user's ranges."""
    if not user.has_entry:
        what = f"uid {user.uid} has no entry in /etc/passwd, without which newuidmap maps nothing"
        return Gap(reason=what, repair=f"sudo useradd --uid {user.uid} NAME")
    for name in HELPERS:
        path = shutil.which(name, path=_search_path())
        if path is None:
            return Gap(reason=f"{name} is missing", repair=INSTALL)
        if why := _without_privilege(path):
            return Gap(reason=f"{path} {why[0]}", repair=why[1])
    return NO_GAP


def _without_privilege(path: str) -> tuple[str, str] | None:
    """Say why a program gains nothing when it is executed, and the way out; None if it does."""
    if not os.stat(path).st_mode & stat.S_ISUID and not _has_capability(path):
        return "is neither setuid nor has a capability", f"sudo chmod u+s {path}"
    if os.statvfs(path).f_flag & os.ST_NOSUID:
        return "lies on a file system mounted nosuid", f"mount it without nosuid: findmnt -T {path}"
    if "NoNewPrivs:\t1" in Path("/proc/self/status").read_text(encoding="utf-8"):
        how = "docker run without --security-opt no-new-privileges, sudo without setpriv"
        return "gains no privilege, as no_new_privs is set on this process", how
    return None


def _has_capability(path: str) -> bool:
    try:
        return bool(os.getxattr(path, "security.capability"))
    except OSError:
        return False


def _search_path() -> str:
    return os.environ.get("PATH", "") + ":/usr/bin:/bin:/usr/sbin"
