"""Users of a container, from the image's own /etc/passwd and /etc/group.

Parsed here, strictly and with bounds, never through NSS, which would load the image's libraries
(CVE-2019-14271). A number is a number and anything else is a name; what is neither is an error,
never root (CVE-2026-30892).
"""

from __future__ import annotations

import errno
import os
import stat

from pytest_rootfs.kernel.inside import open_inside
from pytest_rootfs.kernel.namespaces import LAST_ID

FILE_BYTES = 1 << 20


class User:
    """Who a command runs as."""

    __slots__ = ("gid", "groups", "home", "name", "uid")

    def __init__(self, name: str, uid: int, gid: int, home: str, groups: list[int]) -> None:
        self.name = name
        self.uid = uid
        self.gid = gid
        self.home = home
        self.groups = groups


class _Table:
    """The lines of one file, read again when the file has changed."""

    def __init__(self, path: str, fields: int) -> None:
        self._path = path
        self._fields = fields
        self._version: object = None
        self._lines: list[list[str]] = []

    def lines(self) -> list[list[str]]:
        try:
            status = os.stat(self._path)
        except OSError:
            return []
        version = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
        if version != self._version:
            self._lines = self._read()
            self._version = version
        return self._lines

    def forget(self) -> None:
        self._version, self._lines = None, []

    def _read(self) -> list[list[str]]:
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY  # a FIFO must not make us wait
        fd = open_inside(self._path, flags)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode) or status.st_size > FILE_BYTES:
                raise OSError(errno.EINVAL, "not a regular file of at most 1 MiB", self._path)
            text = os.read(fd, status.st_size).decode("utf-8", "surrogateescape")
        finally:
            os.close(fd)
        return [line.split(":") for line in text.split("\n") if line.count(":") >= self._fields - 1]


_passwd = _Table("/etc/passwd", 6)
_group = _Table("/etc/group", 4)


def forget() -> None:
    """Forget the users that were read: these files are another root's."""
    _passwd.forget()
    _group.forget()


def find(spec: str) -> User:
    """Return the user for `name`, `uid`, `name:group` or `uid:gid`.

    Raises OSError (ENOENT) with a sentence when there is none. Without a group, the user's own and
    its supplementary ones; a number without an entry has group 0 and no others.
    """
    user_part, colon, group_part = spec.partition(":")
    user = _find_user(user_part)
    if colon:
        user.gid = find_gid(group_part)
        user.groups = []
    return user


def _find_user(text: str) -> User:
    uid = _number(text)
    for name, _, line_uid, line_gid, _, home, *_ in _passwd.lines():
        if (name if uid is None else line_uid) == text:  # other lines may say what they want
            found_uid, found_gid = _number(line_uid), _number(line_gid)
            if found_uid is None or found_gid is None or "\0" in name + home:
                raise OSError(errno.EINVAL, "its line in /etc/passwd is malformed", text)
            return User(name, found_uid, found_gid, home or "/", _groups_of(name, found_gid))
    if uid is None:
        raise OSError(errno.ENOENT, "no such user in the image's /etc/passwd", text)
    return User("root" if uid == 0 else str(uid), uid, 0, "/root" if uid == 0 else "/", [])


def find_uid(text: str) -> int:
    """Return the id of a user by name or number; raises OSError as `find` does."""
    return _find_user(text).uid


def find_gid(text: str) -> int:
    """Return the id of a group by name or number; raises OSError as `find` does."""
    gid = _number(text)
    if gid is not None:
        return gid
    for name, _, line_gid, *_ in _group.lines():
        if name == text and (found := _number(line_gid)) is not None:
            return found
    raise OSError(errno.ENOENT, "no such group in the image's /etc/group", text)


def _groups_of(name: str, own_gid: int) -> list[int]:
    found = set()
    for _, _, line_gid, members, *_ in _group.lines():
        # the text first: of the fifty lines of a distribution hardly one is looked into
        if name in members and name in members.strip().split(","):
            gid = _number(line_gid)
            if gid is not None and gid != own_gid:
                found.add(gid)
    return sorted(found)


def _number(text: str) -> int | None:
    """Return a numeric id; None for a name. Signs, spaces and leading zeros are no number."""
    if not text.isascii() or not text.isdigit() or (len(text) > 1 and text[0] == "0"):
        return None
    number = int(text) if len(text) <= 10 else LAST_ID + 1
    if number > LAST_ID:
        raise OSError(errno.ERANGE, f"user and group ids end at {LAST_ID}", text)
    return number
