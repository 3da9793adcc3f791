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
    """Change one entry of a folder, or the attributes of what a path leads to."""
    how, path = message["how"], message["path"]
    if how in _OF_ENTRIES:
        with _Parent(path) as parent:
            _OF_ENTRIES[how](parent, message)
        return {}, []
    fd = open_inside(path, os.O_PATH)
    try:
        _OF_TARGETS[how](f"/proc/self/fd/{fd}", message)
    finally:
        os.close(fd)
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


def _change_link_owner(parent: _Parent, message: Message) -> None:
    os.chown(parent.name, message["uid"], message["gid"], dir_fd=parent.fd, follow_symlinks=False)


def _change_owner(target: str, message: Message) -> None:
    os.chown(target, message["uid"], message["gid"])


def _change_mode(target: str, message: Message) -> None:
    os.chmod(target, message["mode"])


def _set_times(target: str, message: Message) -> None:
    os.utime(target, ns=(message["atime_ns"], message["mtime_ns"]))


_OF_ENTRIES: dict[str, Callable[[_Parent, Message], None]] = {
    "mkdir": _make_dir,
    "unlink": _unlink,
    "rmdir": _remove_dir,
    "rename": _rename,
    "symlink": _link_to,
    "lchown": _change_link_owner,
}
_OF_TARGETS: dict[str, Callable[[str, Message], None]] = {
    "chown": _change_owner,
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
