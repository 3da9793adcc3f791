"""Start a command inside the container, from its init.

Two ways with one meaning: vfork by posix_spawn(3), more than twice as fast, and fork for what that
cannot do (a terminal, a cgroup v2, little memory). Nothing of the image is looked at but its
program, its working directory and its two user files.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import select
import struct

from pytest_rootfs.kernel import forks, signals, syscalls
from pytest_rootfs.kernel.inside import open_inside
from pytest_rootfs.runtime import interpreters, processes, programs, users

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any  # what posix_spawn(3) takes is of many types

    from pytest_rootfs.kernel.cgroups_session import Entrances
    from pytest_rootfs.runtime.protocol import Message

DEFAULTED = [signals.SIGPIPE, signals.SIGXFSZ]
"""Signals that the interpreter ignores and that every program expects not to be."""

_RESET = signals.valid_signals() - {signals.SIGKILL, signals.SIGSTOP}
"""All that can be: of each other one, posix_spawn(3) asks first what it does."""

NOFILE_SOFT = 1024
# asm-generic/ioctls.h
TIOCSCTTY = 0x540E
TIOCSWINSZ = 0x5414
TIOCGPTPEER = 0x5441
TIOCSPTLCK = 0x40045431

_null_fds: list[int] = []
_life_fds: list[int] = []
"""A pipe whose end of file is the spawner's death: only the spawner has the other end."""


def prepare() -> None:
    """Make and touch, in the spawner, what may not be imported or looked up later."""
    _life_fds.extend(os.pipe())
    os.fsencode("")
    struct.pack("i", 0)


def needed_fds() -> list[int]:
    """Return the descriptors that an init keeps for its commands."""
    return _life_fds[:1]


def end_with_spawner() -> None:
    """End this init if the spawner died before it asked for a signal that would tell."""
    if _life_fds and select.select(_life_fds[:1], (), (), 0)[0]:
        os._exit(1)


class SpawnError(OSError):
    """A command cannot be started; `step` says what failed.

    user, cwd, find, stdio, exec; or interpreter, then the subject is the one of the program.
    """

    def __init__(self, error: OSError, step: str) -> None:
        super().__init__(error.errno, error.strerror, error.filename)
        self.step = step


class Stdio:
    """The three standard descriptors of a command, and the ends that pytest gets."""

    def __init__(self) -> None:
        self.child_fds: list[int] = []
        self.given_fds: list[int] = []
        self._own_fds: list[int] = []

    def open_pipe(self, number: int, user: users.User) -> None:
        """Make a pipe; its inode belongs to the user, who may reopen it as /dev/stdout."""
        read_fd, write_fd = os.pipe()
        theirs, ours = (read_fd, write_fd) if number == 0 else (write_fd, read_fd)
        self._keep(theirs, ours)
        if user.uid or user.gid:
            _give(theirs, user)

    def open_terminal(self, size: list[int], user: users.User) -> None:
        """Make a terminal of the container's own devpts; no path is resolved for its other end."""
        master_fd = os.open("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        self.given_fds.append(master_fd)
        fcntl.ioctl(master_fd, TIOCSPTLCK, struct.pack("i", 0))
        flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
        slave_fd = fcntl.ioctl(master_fd, TIOCGPTPEER, flags)
        self._own_fds.append(slave_fd)
        fcntl.ioctl(slave_fd, TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        os.fchown(slave_fd, user.uid, -1)
        self.child_fds = [slave_fd] * 3

    def close_child_ends(self) -> None:
        """Close what the command has now."""
        while self._own_fds:
            os.close(self._own_fds.pop())

    def close_all(self) -> None:
        """Close everything, as the command does not start."""
        self.close_child_ends()
        while self.given_fds:
            os.close(self.given_fds.pop())

    def _keep(self, theirs: int, ours: int) -> None:
        self._own_fds.append(theirs)
        self.child_fds.append(theirs)
        self.given_fds.append(ours)


def spawn(message: Message, fds: list[int], group: Entrances) -> tuple[int, int, list[int]]:
    """Start a command; return its pid, its marker and the descriptors for pytest."""
    step = "user"
    try:
        user = users.find(message["user"])
        env = {"HOME": user.home, "USER": user.name, **message["env"]}
        step = "cwd"
        if message["cwd"] != "/":  # which is where init is
            os.close(_open_folder(message["cwd"]))
        step = "find"
        program = programs.find(message["argv"][0], message["cwd"], env)
        step = "stdio"
        stdio = _open_stdio(message, fds, user)
    except OSError as error:
        raise SpawnError(error, getattr(error, "step", step)) from None
    try:
        # some filters answer EPERM to clone3(2), and then glibc's posix_spawn(3) gives up
        is_fast = forks.has_clone3() and group.into_fd is None
        if is_fast and not message["tty"] and not message["is_cramped"]:
            pid, marker = _spawn_fast(message, program, env, stdio, group, user)
        else:
            pid, marker = _spawn_by_fork(message, program, env, stdio, group, user)
    except OSError as error:
        stdio.close_all()
        if getattr(error, "step", "") == "exec" and (name := interpreters.first_bad(program)):
            raise SpawnError(OSError(error.errno, error.strerror, name), "interpreter") from None
        raise
    stdio.close_child_ends()
    return pid, marker, stdio.given_fds


def rehearse(message: Message, group: Entrances) -> None:
    """Do all of `spawn` but the fork, with a program that cannot exist, and change no ids."""
    found = users.find(message["user"])
    user = users.User(found.name, 0, 0, found.home, [])
    env = {"HOME": user.home, "USER": user.name, **message["env"]}
    os.close(_open_folder(message["cwd"]))
    try:
        programs.find(message["argv"][0], message["cwd"], env)
    except OSError:
        pass  # as meant
    stdio = _open_stdio(message, [], user)
    try:
        # in a namespace of its own, on cgroup v2, init could clone no command into the group
        refused = (None, None)
        _spawn_fast(message, "/", env, stdio, group, user, namespaces=0, scheduler=refused)
    except TypeError:
        pass  # by the last argument, before it forks: the first command shall still be process 2
    finally:
        stdio.close_all()


def forget() -> None:
    """Forget what a rehearsal outside of any container has found: the host's files and users."""
    while _null_fds:
        os.close(_null_fds.pop())
    users.forget()


def _open_stdio(message: Message, fds: list[int], user: users.User) -> Stdio:
    stdio = Stdio()
    try:
        if message["tty"]:
            stdio.open_terminal(message["tty"], user)
            return stdio
        for number, kind in enumerate(message["stdio"]):
            if kind == "pipe":
                stdio.open_pipe(number, user)
            elif kind == "null":
                stdio.child_fds.append(_null_fd())
            elif kind == "stdout":
                stdio.child_fds.append(stdio.child_fds[1])
            else:
                stdio.child_fds.append(fds[kind])
    except OSError:
        stdio.close_all()
        raise
    return stdio


def _give(fd: int, user: users.User) -> None:
    try:
        os.fchown(fd, user.uid, user.gid)
    except OSError as error:  # an id that is not mapped: changing to it would fail, too
        raise SpawnError(error, "user") from None


def _null_fd() -> int:
    if not _null_fds:
        _null_fds.append(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))
    return _null_fds[0]


def _open_folder(path: str) -> int:
    """Open a working directory as init sees it; what a magic link of proc leads to is refused.

    It may lie outside the container (CVE-2024-21626). The folder is entered by the descriptor, so
    nothing can be put in its place meanwhile.
    """
    if not path.startswith("/"):
        raise OSError(errno.EINVAL, "not an absolute path", path)
    return open_inside(path, os.O_PATH | os.O_DIRECTORY)


def _enter(path: str) -> None:
    """Enter a working directory with the rights of the user that this process has become."""
    fd = _open_folder(path)
    try:
        os.fchdir(fd)
    finally:
        os.close(fd)


def _limit_files() -> tuple[int, int]:
    """Set the soft limit of open files that every command starts with; return init's own."""
    own = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = NOFILE_SOFT if own[1] == resource.RLIM_INFINITY else min(NOFILE_SOFT, own[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, own[1]))
    return own


def _spawn_fast(
    message: Message,
    program: str,
    env: dict[str, str],
    stdio: Stdio,
    group: Entrances,
    user: users.User,
    *,
    namespaces: int = syscalls.CLONE_NEWCGROUP,
    **attributes: Any,
) -> tuple[int, int]:
    """Start a command by vfork; return its pid and marker."""
    actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(stdio.child_fds)]
    syscalls.unshare(namespaces)
    marker = processes.marker_of("self")
    limits = _limit_files()
    step = "user"
    try:
        for fd in group.command_tasks:
            os.write(fd, b"0")
        with _ActingAs(user):
            step = "cwd"
            if message["cwd"] != "/" or user.uid:  # who may not be allowed to be there
                _enter(message["cwd"])
            step = "exec"
            pid = os.posix_spawn(
                program,
                message["argv"],
                env,
                file_actions=actions,
                setsid=True,
                setsigmask=(),
                setsigdef=_RESET,
                **attributes,
            )
    except OSError as error:
        raise SpawnError(error, step) from None
    finally:
        for fd in group.leave_tasks:
            os.write(fd, b"0")
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        os.chdir("/")
    return pid, marker


class _ActingAs:
    """Has the ids of a user, which a command inherits, for the length of a `with` block.

    The saved ids stay root's: they bring init back, and execve(2) takes them from the command, with
    every capability (capabilities(7)). Nobody traces init meanwhile: that takes all three ids.
    """

    __slots__ = ("_user",)

    def __init__(self, user: users.User) -> None:
        self._user = user

    def __enter__(self) -> None:
        user = self._user
        if self._is_root:
            return
        try:
            os.setgroups(user.groups)
            os.setresgid(user.gid, user.gid, 0)
            os.setresuid(user.uid, user.uid, 0)
        except OSError:
            _become_root_again()
            raise

    def __exit__(self, *_: object) -> None:
        if not self._is_root:
            _become_root_again()

    @property
    def _is_root(self) -> bool:
        return not (self._user.uid or self._user.gid or self._user.groups)


def _become_root_again() -> None:
    os.setresuid(0, 0, 0)
    os.setresgid(0, 0, 0)
    os.setgroups([])
    # a change of ids clears the one and resets the other (prctl(2))
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signals.SIGKILL)
    end_with_spawner()


def _spawn_by_fork(
    message: Message,
    program: str,
    env: dict[str, str],
    stdio: Stdio,
    group: Entrances,
    user: users.User,
) -> tuple[int, int]:
    """Start any command; return its pid and marker, which the child itself reports."""
    report_r, report_w = os.pipe()
    try:
        if group.into_fd is not None:
            pid, pidfd = forks.fork_into(group.into_fd, syscalls.CLONE_NEWCGROUP)
        else:
            pid, pidfd = forks.fork(syscalls.CLONE_NEWCGROUP)
        if pid == 0:
            _become(message, program, env, stdio, group, user, report_w)
        os.close(pidfd)
    finally:
        os.close(report_w)
    with open(report_r, errors="surrogateescape") as report:
        marker, _, failure = report.read().partition("\n")
    if failure or not marker:
        os.waitpid(pid, 0)
        code, step, subject = (failure or f"{errno.EIO} exec {program}").split(" ", 2)
        raise SpawnError(OSError(int(code), os.strerror(int(code)), subject), step)
    return pid, int(marker)


def _become(
    message: Message,
    program: str,
    env: dict[str, str],
    stdio: Stdio,
    group: Entrances,
    user: users.User,
    report_w: int,
) -> None:
    """Turn the forked child into the command; never returns."""
    step = "exec"
    try:
        os.write(report_w, b"%d\n" % processes.marker_of("self"))
        for fd in group.command_tasks:
            os.write(fd, b"0")
        os.setsid()
        if message["tty"]:
            fcntl.ioctl(stdio.child_fds[0], TIOCSCTTY, 0)
        for number, fd in enumerate(stdio.child_fds):
            os.dup2(fd, number)
        step = "user"
        if user.groups or user.uid or user.gid:
            os.setgroups(user.groups)
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
        step = "cwd"
        _enter(message["cwd"])
        step = "exec"
        _limit_files()
        for number in DEFAULTED:
            signals.signal(number, signals.SIG_DFL)
        signals.pthread_sigmask(signals.SIG_SETMASK, ())
        os.execve(program, message["argv"], env)
    except OSError as error:
        subject = error.filename or {"cwd": message["cwd"], "user": ""}.get(step, program)
        text = f"{error.errno} {step} {subject}"
        os.write(report_w, text.encode(errors="surrogateescape")[:4096])
    finally:
        os._exit(127)
