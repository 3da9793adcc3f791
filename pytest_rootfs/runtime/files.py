"""Files of a container, opened and changed by its init.

Each call names a path as the container sees it. The folder that holds it is opened inside the root,
without following magic links of proc, and the rest is done relative to that descriptor: no image
can lead a path anywhere else.
"""

from __future__ import annotations

import os

from pytest_rootfs.kernel.inside import open_inside
from pytest_rootfs.runtime import users

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_rootfs.runtime.protocol import Message

    Answer = tuple[Message, list[int]]


def open_file(message: Message) -> Answer:
    """Open a file; never waits for the other end of a FIFO."""
    flags = message["flags"]
    mode = message["mode"] if flags & os.O_CREAT else 0
    return {}, [open_inside(message["path"], flags | os.O_NONBLOCK | os.O_NOCTTY, mode)]


def stat_file(message: Message) -> Answer:
    """Stat a path; the fields are named as in os.stat_result."""
    fd = open_inside(message["path"], os.O_PATH | (0 if message["follow"] else os.O_NOFOLLOW))
    try:
        status = os.fstat(fd)
    finally:
        os.close(fd)
    names = "mode ino dev nlink uid gid size atime_ns mtime_ns ctime_ns rdev blocks blksize"
    return {name: getattr(status, f"st_{name}") for name in names.split()}, []


def read_link(message: Message) -> Answer:
    """Read a symlink."""
    with _Parent(message["path"]) as parent:
        return {"target": os.readlink(parent.name, dir_fd=parent.fd)}, []


def find_ids(message: Message) -> Answer:
    """Return the ids of an owner that may be given by names of the image's own files."""
    uid, gid = message["uid"], message["gid"]
    return {
        "uid": users.find_uid(uid) if isinstance(uid, str) else uid,
        "gid": users.find_gid(gid) if isinstance(gid, str) else gid,
    }, []


def change(message: Message) -> Answer:
    """Change one entry of a folder, or its attributes; the symlink itself where that is asked."""
    with _Parent(message["path"]) as parent:
        _CHANGES[message["how"]](parent, message)
    return {}, []


class _Parent:
    """The folder that holds a path, as a descriptor, and the name in it."""

    def __init__(self, path: str) -> None:
        folder, self.name = os.path.split(path.rstrip("/") or "/")
        self.name = self.name or "."
        self.fd = open_inside(folder or "/", os.O_PATH | os.O_DIRECTORY)

    def __enter__(self) -> _Parent:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


def _make_dir(parent: _Parent, message: Message) -> None:
    os.mkdir(parent.name, message["mode"], dir_fd=parent.fd)


def _unlink(parent: _Parent, _message: Message) -> None:
    os.unlink(parent.name, dir_fd=parent.fd)


def _remove_dir(parent: _Parent, _message: Message) -> None:
    os.rmdir(parent.name, dir_fd=parent.fd)


def _rename(parent: _Parent, message: Message) -> None:
    with _Parent(message["target"]) as target:
        os.rename(parent.name, target.name, src_dir_fd=parent.fd, dst_dir_fd=target.fd)


def _link_to(parent: _Parent, message: Message) -> None:
    os.symlink(message["target"], parent.name, dir_fd=parent.fd)


def _change_owner(parent: _Parent, message: Message) -> None:
    os.chown(parent.name, message["uid"], message["gid"], dir_fd=parent.fd, follow_symlinks=False)


def _change_mode(_parent: _Parent, message: Message) -> None:
    fd = open_inside(message["path"], os.O_PATH)  # chmod(2) of a symlink changes its target
    try:
        os.chmod(f"/proc/self/fd/{fd}", message["mode"])
    finally:
        os.close(fd)


def _change_owner_of_target(_parent: _Parent, message: Message) -> None:
    fd = open_inside(message["path"], os.O_PATH)
    try:
        os.chown(f"/proc/self/fd/{fd}", message["uid"], message["gid"])
    finally:
        os.close(fd)


def _set_times(_parent: _Parent, message: Message) -> None:
    fd = open_inside(message["path"], os.O_PATH)
    try:
        os.utime(f"/proc/self/fd/{fd}", ns=(message["atime_ns"], message["mtime_ns"]))
    finally:
        os.close(fd)


_CHANGES: dict[str, Callable[[_Parent, Message], None]] = {
    "mkdir": _make_dir,
    "unlink": _unlink,
    "rmdir": _remove_dir,
    "rename": _rename,
    "symlink": _link_to,
    "lchown": _change_owner,
    "chown": _change_owner_of_target,
    "chmod": _change_mode,
    "utime": _set_times,
}

CALLS: dict[str, Callable[[Message], Answer]] = {
    "open": open_file,
    "stat": stat_file,
    "readlink": read_link,
    "change": change,
    "ids": find_ids,
}
