"""Paths of a container with `pathlib.Path`'s names.

They need no program in the image: the container's init opens and changes files, and what is read
or written goes through a descriptor that it has passed out. Symlinks are resolved inside the
container; nothing outside can be reached.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import IO, Any

from pytest_rootfs.kernel.inside import MAX_LINKS
from pytest_rootfs.kernel.namespaces import LAST_ID
from pytest_rootfs.runtime import streams
from pytest_rootfs.runtime.path_names import AnyPath, PathNames, absolute, text_of
from pytest_rootfs.runtime.protocol import Message

__all__ = ["AnyPath", "ContainerPath", "absolute", "text_of"]

_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFSOCK: "socket",
}
_FLAGS = {
    "r": os.O_RDONLY,
    "w": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    "a": os.O_WRONLY | os.O_CREAT | os.O_APPEND,
    "x": os.O_WRONLY | os.O_CREAT | os.O_EXCL,
}


class ContainerPath(PathNames):
    """An absolute path in a container; relative ones start at its working directory.

    Raises the same errors as `pathlib.Path` does. Owners in `stat()` are the container's ids.
    """

    def exists(self) -> bool:
        """Tell whether the path, symlinks followed, leads to something."""
        return self._mode(follow=True) is not None

    def is_file(self) -> bool:
        """Tell whether it is a regular file, symlinks followed."""
        return stat.S_ISREG(self._mode(follow=True) or 0)

    def is_dir(self) -> bool:
        """Tell whether it is a folder, symlinks followed."""
        return stat.S_ISDIR(self._mode(follow=True) or 0)

    def is_symlink(self) -> bool:
        """Tell whether the path itself is a symlink."""
        return stat.S_ISLNK(self._mode(follow=False) or 0)

    def is_socket(self) -> bool:
        """Tell whether it is a socket, symlinks followed."""
        return stat.S_ISSOCK(self._mode(follow=True) or 0)

    def is_fifo(self) -> bool:
        """Tell whether it is a FIFO, symlinks followed."""
        return stat.S_ISFIFO(self._mode(follow=True) or 0)

    def kind(self) -> str | None:
        """Return what the path itself is, in the words of `Change.type`; None for nothing."""
        mode = self._mode(follow=False)
        return None if mode is None else _KINDS[stat.S_IFMT(mode)]

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Return the attributes, symlinks followed; owners are the container's ids."""
        answer, _ = self._ask("stat", follow=follow_symlinks)
        times = [answer[f"{name}time_ns"] for name in ("a", "m", "c")]
        basic = [answer[name] for name in ("mode", "ino", "dev", "nlink", "uid", "gid", "size")]
        extra: dict[str, Any] = {  # Any: what os.stat_result takes is not typed
            "st_atime": times[0] / 1e9,
            "st_mtime": times[1] / 1e9,
            "st_ctime": times[2] / 1e9,
            "st_atime_ns": times[0],
            "st_mtime_ns": times[1],
            "st_ctime_ns": times[2],
            "st_blksize": answer["blksize"],
            "st_blocks": answer["blocks"],
            "st_rdev": answer["rdev"],
        }
        return os.stat_result([*basic, *(time // 10**9 for time in times)], extra)

    def lstat(self) -> os.stat_result:
        """Return the attributes of the path itself."""
        return self.stat(follow_symlinks=False)

    def open(
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:  # Any: text or bytes, as the mode says
        """Open the file; text is UTF-8 unless said otherwise. New files are root's, mode 0644."""
        kinds = [kind for kind in _FLAGS if kind in mode]
        if len(kinds) != 1 or set(mode) - set("rwaxbt+") or ("b" in mode and "t" in mode):
            raise ValueError(f"invalid mode: {mode!r}")
        flags = _FLAGS[kinds[0]]
        if "+" in mode:
            flags = (flags & ~(os.O_RDONLY | os.O_WRONLY)) | os.O_RDWR
        fd = self._open_fd(flags)
        try:
            if "b" not in mode and encoding is None:
                encoding = "utf-8"
            if kinds == ["r"] and "+" not in mode:
                return open(fd, mode, buffering, encoding, errors, newline)
            text = encoding, errors, newline
            mode = mode.replace("x", "w")
            return streams.open_writable(fd, mode, buffering, text, self._no_space)
        except IsADirectoryError:
            os.close(fd)
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(self)) from None
        except BaseException:
            os.close(fd)
            raise

    def read_bytes(self) -> bytes:
        """Return the content."""
        with self.open("rb") as stream:
            content: bytes = stream.read()
        return content

    def read_text(self, encoding: str | None = None, errors: str | None = None) -> str:
        """Return the content as text, UTF-8 unless said otherwise."""
        with self.open("r", encoding=encoding, errors=errors) as stream:
            content: str = stream.read()
        return content

    def write_bytes(self, data: bytes) -> int:
        """Replace the content; return the number of bytes."""
        with self.open("wb") as stream:
            return int(stream.write(data))

    def write_text(
        self,
        data: str,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> int:
        """Replace the content by text; return the number of characters."""
        with self.open("w", encoding=encoding, errors=errors, newline=newline) as stream:
            return int(stream.write(data))

    def touch(self, mode: int = 0o644, exist_ok: bool = True) -> None:  # noqa: FBT001, FBT002  pathlib's
        """Create an empty file, or set its times to now."""
        flags = os.O_WRONLY | os.O_CREAT | (0 if exist_ok else os.O_EXCL)
        if exist_ok and self.exists():
            now_ns = time.time_ns()
            self._change("utime", atime_ns=now_ns, mtime_ns=now_ns)
            return
        os.close(self._open_fd(flags, mode))

    def mkdir(self, mode: int = 0o755, parents: bool = False, exist_ok: bool = False) -> None:  # noqa: FBT001, FBT002  pathlib's
        """Create the folder."""
        try:
            self._change("mkdir", mode=mode)
        except FileNotFoundError:
            if not parents or self._path.parent == self._path:
                raise
            self._make_parents()
            self.mkdir(mode, exist_ok=exist_ok)
        except FileExistsError:
            if not exist_ok or not self.is_dir():
                raise

    def unlink(self, missing_ok: bool = False) -> None:  # noqa: FBT001, FBT002  pathlib's
        """Remove the file or symlink."""
        try:
            self._change("unlink")
        except FileNotFoundError:
            if not missing_ok:
                raise

    def rmdir(self) -> None:
        """Remove the empty folder."""
        self._change("rmdir")

    def rename(self, target: AnyPath) -> ContainerPath:
        """Rename to a path of the same container; a relative one is beside this one."""
        new = self.parent / target
        self._change("rename", target=str(new))
        return new

    replace = rename

    def readlink(self) -> ContainerPath:
        """Return where the symlink points, as it says itself."""
        answer, _ = self._ask("readlink")
        return self._at(str(answer["target"]))

    def resolve(self, strict: bool = False) -> ContainerPath:  # noqa: FBT001, FBT002  pathlib's
        """Return the path without symlinks and `..`, as the container resolves them.

        What does not exist stays as it is, unless `strict`.
        """
        found, links = self._at("/"), 0
        todo = [*reversed(self._path.parts)]
        while todo:
            part = todo.pop()
            entry = found / part
            if part == "..":
                found = found.parent
            elif not entry.is_symlink():
                found = entry
            elif links >= MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(self))
            else:
                links += 1
                todo += reversed(entry.readlink().parts)  # an absolute one begins with the root
        if strict:
            found.stat()
        return found

    def symlink_to(self, target: AnyPath) -> None:
        """Make this path a symlink to `target`, which need not exist."""
        self._change("symlink", target=text_of(target))

    def chmod(self, mode: int) -> None:
        """Change the permissions, symlinks followed."""
        self._change("chmod", mode=mode)

    def chown(
        self, uid: int | str = -1, gid: int | str = -1, *, follow_symlinks: bool = True
    ) -> None:
        """Change the owner, in the container's ids or names; -1 leaves one as it is.

        Raises LookupError for a name that the image's own /etc/passwd or /etc/group has not.
        """
        ids = {"uid": uid, "gid": gid}
        for key, value in ids.items():
            if isinstance(value, bool) or not isinstance(value, (int, str)):
                raise TypeError(f"{key} is a number or a name, not {value!r}")
            if isinstance(value, int) and not -1 <= value <= LAST_ID:
                raise ValueError(f"{key}={value} is out of range: ids end at {LAST_ID}")
        if isinstance(uid, str) or isinstance(gid, str):
            ids, _ = self._named(ids)
        try:
            self._change("chown" if follow_symlinks else "lchown", **ids)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            raise self._no_such_id(ids) from None

    def iterdir(self) -> Iterator[ContainerPath]:
        """Yield the entries of the folder, in no order."""
        for name in self._names():
            yield self / name

    def glob(self, pattern: str) -> Iterator[ContainerPath]:
        """Yield what matches a pattern relative to here; `**` is any number of folders."""
        parts = PurePosixPath(pattern).parts
        if not parts or pattern.startswith("/"):
            raise ValueError(f"unacceptable pattern: {pattern!r}")
        yield from self._matches(parts, set())

    def rglob(self, pattern: str) -> Iterator[ContainerPath]:
        """Yield what matches a pattern anywhere below."""
        yield from self._matches(("**", *PurePosixPath(pattern).parts), set())

    def _make_parents(self) -> None:
        """Create the folders above that are missing; a path may have more than Python recurses."""
        missing = []
        for folder in self.parents:
            try:
                folder.mkdir(exist_ok=True)
                break
            except FileNotFoundError:
                missing.append(folder)
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)

    def _matches(self, parts: tuple[str, ...], seen: set[str]) -> Iterator[ContainerPath]:
        head, rest = parts[0], parts[1:]
        if head == "**":
            for folder in [*self._folders()]:
                if not rest:
                    found: Iterator[ContainerPath] = iter([folder])
                else:
                    found = folder._matches(rest, set())
                for path in found:
                    if str(path) not in seen:
                        seen.add(str(path))
                        yield path
            return
        for entry in self._entries_matching(head):
            if not rest:
                yield entry
            elif stat.S_ISDIR(entry._mode_or_none(follow=True) or 0):
                yield from entry._matches(rest, seen)

    def _entries_matching(self, pattern: str) -> list[ContainerPath]:
        if not any(char in pattern for char in "*?["):
            entry = self / pattern
            return [entry] if entry._mode_or_none(follow=False) is not None else []
        return [self / name for name in self._names_or_none() if fnmatchcase(name, pattern)]

    def _folders(self) -> Iterator[ContainerPath]:
        """Yield this folder and all below, each before its own; a tree may be of any depth."""
        todo = [self]
        while todo:
            folder = todo.pop()
            yield folder
            entries = [folder / name for name in folder._names_or_none()]
            modes = [(each, each._mode_or_none(follow=False)) for each in reversed(entries)]
            todo += [each for each, mode in modes if stat.S_ISDIR(mode or 0)]

    # pathlib's globs pass over what cannot be read, too
    def _names_or_none(self) -> list[str]:
        try:
            return self._names()
        except (NotADirectoryError, FileNotFoundError, PermissionError):
            return []

    def _mode_or_none(self, *, follow: bool) -> int | None:
        try:
            return self._mode(follow=follow)
        except PermissionError:
            return None

    def _names(self) -> list[str]:
        fd = self._open_fd(os.O_RDONLY | os.O_DIRECTORY)
        try:
            return sorted(os.listdir(fd))
        finally:
            os.close(fd)

    def _named(self, ids: dict[str, int | str]) -> tuple[Message, list[int]]:
        """Return ids of names, which the image's own files give."""
        try:
            return self._reach.ask_with_fds({"op": "ids", **ids})
        except OSError as error:
            raise LookupError(f"{error.filename!r}: {error.strerror}") from None

    def _mode(self, *, follow: bool) -> int | None:
        if "\0" in str(self._path):
            return None
        try:
            return self.stat(follow_symlinks=follow).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:
                return None
            raise

    def _open_fd(self, flags: int, mode: int = 0o644) -> int:
        _, fds = self._ask("open", flags=flags, mode=mode)
        with contextlib.suppress(OSError):
            if stat.S_ISREG(os.fstat(fds[0]).st_mode):
                os.set_blocking(fds[0], True)
        return fds[0]

    def _change(self, how: str, **details: object) -> None:
        self._ask("change", how=how, **details)

    def _ask(self, op: str, **details: object) -> tuple[Message, list[int]]:
        path = str(self._path)
        try:
            return self._reach.ask_with_fds({"op": op, "path": path, **details})
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise self._no_space(error) from None
            if not error.errno:  # not the kernel's word: an argument that was none
                raise ValueError(f"{op} {path!r}: {error.strerror or error}") from None
            # the kernel's errno picks the subclass: FileNotFoundError and its siblings
            raise OSError(error.errno, os.strerror(error.errno), path) from None

    def _no_such_id(self, ids: Mapping[str, object]) -> OSError:
        """Say why chown(2) answers EINVAL: an owner that is not mapped."""
        wanted = ", ".join(f"{key} {value}" for key, value in ids.items() if value != -1)
        gap = self._reach.id_gap
        reason = gap.reason or "a container's ids end at 65535"
        hint = f"; {gap.repair}" if gap else ""
        text = f"{os.strerror(errno.EINVAL)}: {wanted} does not exist here ({reason}{hint})"
        return OSError(errno.EINVAL, text, str(self._path))

    def _no_space(self, error: OSError) -> OSError:
        path = str(self._path)
        reason = os.strerror(errno.ENOSPC)
        return OSError(error.errno, f"{reason} ({self._reach.space_note(path)})", path)
