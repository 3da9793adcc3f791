"""The warden: the session's process that stays outside the user namespace.

It keeps the rights of whoever runs pytest and does what only they may: write the id maps, own the
cgroup subtree, copy host trees. It outlives the spawner, so that cgroups are removed whoever dies
first. It forks the spawner, once, and a child for each job on the store (pack, unpack, compare),
which enters the session's user namespace.

Started as `python -I -S -c …` with one socket; ends when that socket does. Imports small modules of
the standard library and `kernel` only; the module of a job is imported when the first one asks.
"""

from __future__ import annotations

import codecs
import errno
import os
import select

from pytest_rootfs.kernel import cgroups, forks, mounts, namespaces, signals, syscalls
from pytest_rootfs.runtime import host_views, protocol, root_trees, spawner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_rootfs.kernel.sockets import Socket
    from pytest_rootfs.runtime.protocol import Message

SPAWNER_GRACE_S = 10.0
DESERTED_GRACE_S = 0.2
"""For a spawner that hears of no end, as its socket lives on in a fork of pytest."""

REMOVALS = 15
JOB_CODECS = ("ascii", "latin-1", "utf-8")


def main(control_fd: int) -> None:
    """Serve one session; never returns."""
    os.umask(0o022)
    os.chdir("/")
    # sent to it by `pkill -INT`, say, it is meant for pytest, which ends everything in order
    signals.signal(signals.SIGINT, signals.SIG_IGN)
    try:
        Warden(protocol.end_of(control_fd)).serve()
    finally:
        os._exit(0)


class Warden:
    """State of one session, outside its user namespace."""

    def __init__(self, control: Socket) -> None:
        self._control = control
        self._parent: cgroups.Parent | None = None
        self._pytest_pidfd = _parent_pidfd()
        self._is_deserted = False
        """Whether pytest has died, and a fork of it has its sockets, which do not end then."""
        self._spawner_pid = 0
        self._spawner_pidfd = -1
        self._userns_fd = -1
        self._layers_fd = -1
        self._layers_path = ""
        self._is_rootful = False
        self._poller = select.poll()
        self._jobs: dict[int, int] = {}
        """Pids of the jobs under way, by pidfd."""
        self._calls = {"start": self._start, "tree": self._send_tree, "job": self._fork_job}

    def serve(self) -> None:
        """Answer calls until pytest or the spawner is gone, then clean up."""
        self._poller.register(self._control, select.POLLIN)
        if self._pytest_pidfd >= 0:
            self._poller.register(self._pytest_pidfd, select.POLLIN)
        try:
            while self._serve_one():
                pass
        finally:
            self._end()

    def _serve_one(self) -> bool:
        for fd, _ in self._poller.poll():
            if fd == self._spawner_pidfd:
                return False
            if fd in self._jobs:
                self._reap_job(fd)
                continue
            if fd == self._pytest_pidfd:
                self._is_deserted = True
                return False
            message, fds = protocol.receive(self._control)
            if message is None or message == protocol.END:
                return False
            reply = protocol.end_of(fds[0])
            try:
                self._answer(message, fds[1:], reply)
            except OSError as error:
                protocol.send_error(reply, error, str(message.get("op")))
            finally:
                reply.close()
                protocol.close_all(fds[1:])
            if message["op"] == "start" and self._spawner_pidfd >= 0:
                self._poller.register(self._spawner_pidfd, select.POLLIN)
        return True

    def _answer(self, message: Message, fds: list[int], reply: Socket) -> None:
        call = self._calls.get(message["op"])
        if call is None:
            raise OSError(errno.ENOSYS, f"unknown call {message['op']}")
        call(message, fds, reply)

    def _start(self, message: Message, fds: list[int], reply: Socket) -> None:
        """Make the cgroup subtree and the spawner in its user namespace."""
        self._is_rootful = message["rootful"]
        self._layers_path = message["layers_path"]
        self._layers_fd = os.dup(fds[1])
        owner = message["uid_map"][0][1], message["gid_map"][0][1]
        self._parent = parent = cgroups.find_parent(
            message["cgroup"], owner=owner, sockets=message["systemd"]
        )
        parent.sweep()  # what sessions left whose warden was killed
        unshared_r, mapped_w = self._fork_spawner(
            parent, fds[0], makes_ahead=message["makes_ahead"]
        )
        self._join_spawner(message, unshared_r, mapped_w)
        facts = {"kind": parent.kind, "controllers": parent.controllers, "reasons": parent.reasons}
        protocol.send(reply, {"cgroup": facts})

    def _send_tree(self, message: Message, _fds: list[int], reply: Socket) -> None:
        """Give a copy of a host tree, mapped to the ids of the session's user namespace."""
        tree_fd = mounts.host_tree(
            message["path"],
            readonly=message["readonly"],
            recursive=message["recursive"],
            userns_fd=self._userns_fd,
        )
        try:
            protocol.send(reply, {}, [tree_fd])
        finally:
            os.close(tree_fd)

    def _fork_spawner(
        self, parent: cgroups.Parent, control_fd: int, *, makes_ahead: bool
    ) -> tuple[int, int]:
        """Fork it; return our ends of the pipes by which it asks for its id maps and gets them."""
        unshared_r, unshared_w = os.pipe()
        mapped_r, mapped_w = os.pipe()
        warden_pid = os.getpid()
        layers = self._layers_tree() if self._is_rootful else self._layers_path
        self._spawner_pid, self._spawner_pidfd = forks.fork()
        if self._spawner_pid == 0:
            try:
                self._close_inherited()
                os.close(unshared_r)
                os.close(mapped_w)
                if os.getppid() != warden_pid:
                    os._exit(1)
                handshake = unshared_w, mapped_r
                spawner.main(control_fd, handshake, layers, parent, makes_ahead=makes_ahead)
            finally:
                os._exit(1)
        os.close(unshared_w)
        os.close(mapped_r)
        if isinstance(layers, int):
            os.close(layers)
        return unshared_r, mapped_w

    def _join_spawner(self, message: Message, unshared_r: int, mapped_w: int) -> None:
        try:
            failure = os.read(unshared_r, 4096)
            if not failure:
                raise OSError(errno.ECHILD, "the spawner was killed", "spawner")
            if failure != b"ok":
                code, step, text = failure.decode().split(" ", 2)
                raise OSError(int(code), text, step)
            pid = self._spawner_pid
            for name in ("uid_map", "gid_map"):
                self._write_map(pid, name, message)
            self._userns_fd = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
            os.write(mapped_w, b"x")
        finally:
            os.close(unshared_r)
            os.close(mapped_w)

    def _write_map(self, pid: int, name: str, message: Message) -> None:
        lines = message[name]
        helper = message["helpers"].get(name)
        if helper:
            _run_helper([helper, str(pid), *(str(number) for line in lines for number in line)])
            return
        if name == "gid_map" and len(lines) == 1 and lines[0][2] == 1:
            namespaces.deny_setgroups(pid)
        namespaces.write_map(f"/proc/{pid}/{name}", lines)

    def _fork_job(self, message: Message, fds: list[int], reply: Socket) -> None:
        """Run a function of a named module in a child inside the user namespace.

        `trees` lists which descriptors are folders that the child must be able to mount or to
        pivot into: the kernel allows that only for trees of its own mount namespace.
        """
        module = __import__(message["module"], fromlist=["*"])
        for codec in JOB_CODECS:  # a look-up imports, which the ids of a job may not be able to
            codecs.lookup(codec)
        function = getattr(module, message["function"])
        fds = list(fds)
        copies: list[int] = []
        if self._is_rootful:
            for index in message["trees"]:
                fds[index] = mounts.clone_tree("", fd=fds[index], recursive=False)
                copies.append(fds[index])
            if message["layers"] or message["between"]:
                copies.append(self._layers_tree())
            if root_trees.HOST in message["layers"]:
                copies.append(self._host_tree())
        warden_pid = os.getpid()
        pid, pidfd = forks.fork()
        if pid == 0:
            try:
                self._run_job(message, fds, copies, reply, function, warden_pid)
            finally:
                os._exit(1)
        protocol.close_all(copies)
        self._jobs[pidfd] = pid
        self._poller.register(pidfd, select.POLLIN)

    def _run_job(
        self,
        message: Message,
        fds: list[int],
        copies: list[int],
        reply: Socket,
        function: object,
        warden_pid: int,
    ) -> None:
        self._close_inherited()
        try:
            syscalls.setns(self._userns_fd, syscalls.CLONE_NEWUSER)
            syscalls.unshare(syscalls.CLONE_NEWNS)
            spawner.become_root()
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signals.SIGKILL)
            if os.getppid() != warden_pid:
                os._exit(1)
            fds += self._open_in_job(message, fds, copies)
            answer = function(message["args"], fds)  # type: ignore[operator]  # by its name
        except OSError as error:
            answer = protocol.error_frame(error, message["function"])
        except Exception as error:  # noqa: BLE001  whatever it is, pytest must hear of it
            parts = {name: getattr(error, name, "") for name in ("what", "detail", "hint")}
            answer = {"raised": {"class": type(error).__name__, "text": str(error), **parts}}
        protocol.send(reply, answer)
        os._exit(0)

    def _open_in_job(self, message: Message, fds: list[int], copies: list[int]) -> list[int]:
        """Make trees usable in this mount namespace; return the layers' descriptors."""
        names, between = message["layers"], message["between"]
        if self._is_rootful:
            place = mounts.find_place()
            trees = copies[len(message["trees"]) :]
        else:
            place = self._layers_path
            for index in message["trees"]:
                path = os.readlink(f"/proc/self/fd/{fds[index]}")
                fds[index] = mounts.clone_tree(path, recursive=False)
            has_layers = names or between
            trees = [mounts.clone_tree(place, recursive=False)] if has_layers else []
        for tree_fd in trees:
            mounts.keep_attached(tree_fd, place)
        host_fd = trees[1] if len(trees) > 1 else -1
        between_fds = root_trees.open_layers(trees[0] if trees else -1, between, -1)
        if root_trees.HOST in names and not self._is_rootful:
            layer_fds = root_trees.open_layers(trees[0], names[:-1], -1)
            view = host_views.HostView(layer_fds, -1, -1, place=place)
            view.attach_below(place)
            return [*between_fds, view.folder_fd]
        opened = root_trees.open_layers(trees[0] if trees else -1, names, host_fd)
        return [*between_fds, *root_trees.stack_on_host(names, opened, place)]

    def _close_inherited(self) -> None:
        """Close, in a child, by what this process knows that pytest lives."""
        self._control.close()
        if self._pytest_pidfd >= 0:
            os.close(self._pytest_pidfd)

    def _layers_tree(self) -> int:
        return mounts.clone_tree("", fd=self._layers_fd, recursive=False)

    def _host_tree(self) -> int:
        return mounts.host_tree("/", readonly=True, recursive=False, userns_fd=self._userns_fd)

    def _reap_job(self, pidfd: int) -> None:
        os.waitpid(self._jobs.pop(pidfd), 0)
        self._poller.unregister(pidfd)
        os.close(pidfd)

    def _end(self) -> None:
        """Wait until the spawner, and with it every container, is gone; remove the cgroups."""
        self._control.close()
        if self._spawner_pid:
            ended = select.poll()
            ended.register(self._spawner_pidfd, select.POLLIN)
            grace_s = DESERTED_GRACE_S if self._is_deserted else SPAWNER_GRACE_S
            if not ended.poll(grace_s * 1000):
                os.kill(self._spawner_pid, signals.SIGKILL)
            os.waitpid(self._spawner_pid, 0)
        if self._parent is not None:
            # each tries for 0.13 s; on a busy machine inits take longer to die than the spawner
            for _ in range(REMOVALS):
                if self._parent.remove():
                    break


def _parent_pidfd() -> int:
    """Return a descriptor of the process that has started this one, -1 where there is none."""
    parent = os.getppid()
    try:
        pidfd = os.pidfd_open(parent)
    except (OSError, AttributeError):  # AttributeError: an interpreter built for older kernels
        return -1  # it is gone, or a filter denies the call: the end of its socket must do
    if os.getppid() != parent:
        os.close(pidfd)
        return -1
    return pidfd


def _run_helper(argv: list[str]) -> None:
    """Run newuidmap or newgidmap; its words become the error's."""
    words_r, words_w = os.pipe()
    pid, pidfd = forks.fork()
    if pid == 0:
        try:
            os.dup2(words_w, 1)
            os.dup2(words_w, 2)
            os.execve(argv[0], argv, {})
        finally:
            os._exit(127)
    os.close(pidfd)
    os.close(words_w)
    with open(words_r, encoding="utf-8", errors="replace") as stream:
        words = stream.read(4096)
    _, status = os.waitpid(pid, 0)
    if status:
        raise OSError(errno.EPERM, words.strip() or f"status {status}", " ".join(argv))
