"""A running container: commands, files, figures, and what it has changed."""

from __future__ import annotations

import contextlib
import difflib
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from pytest_rootfs import settings
from pytest_rootfs.changeset import Changes
from pytest_rootfs.errors import (
    CommandFailed,
    CommandTimeout,
    ContainerDied,
    ContainerError,
    shown,
)
from pytest_rootfs.runtime import copying, launch
from pytest_rootfs.runtime.agent import Agent
from pytest_rootfs.runtime.client import Peer
from pytest_rootfs.runtime.launch import Call, Command, Stream
from pytest_rootfs.runtime.path import ContainerPath, absolute
from pytest_rootfs.runtime.process import CompletedProcess, Process
from pytest_rootfs.runtime.spec import ContainerOptions, Limits
from pytest_rootfs.runtime.stats import Stats

TAIL_BYTES = 4000
KEPT_COMMANDS = 50


class Home(Protocol):
    """What a container needs of the engine that started it."""

    def touch(self, container: Container) -> None:
        """Note that the container is being used."""

    def status(self, container: Container) -> dict[str, Any]:
        """Return `status` (of waitpid(2), None while alive) and `stats`."""

    def kill(self, container: Container, *, release: bool) -> None:
        """Kill every process; with `release` give up the rw layer too."""

    def release(self, container: Container) -> None:
        """Give up the rw layer of a dead container."""

    def changes(self, container: Container) -> Changes:
        """Compare the rw layer with the image."""

    def read_view(self, container: Container, path: str, *, with_rw: bool) -> bytes | None:
        """Return a file of the image, or of image and rw layer; None where there is no file."""

    def pack_counted(
        self, container: Container, *, clamp_mtime: int | None
    ) -> tuple[Any, int]:  # Any: a descriptor of the store, not known here
        """Pack the rw layer into the store; tell how many entries it has."""


@dataclass(slots=True, kw_only=True)
class CommandRecord:
    """One command that was run, for the report of a failure."""

    argv: list[str]
    returncode: int | None = None
    duration_s: float | None = None
    output_tail: str = ""
    timed_out: bool = False


class Container:
    """A started container. Close it, or use it in a `with` block."""

    def __init__(
        self,
        *,
        container_id: str,
        name: str,
        image: Any,  # Any: an Image, which the runtime does not know
        built: Any,  # Any: a BuiltImage, likewise
        hostname: str,
        pid: int,
        options: ContainerOptions,
        defaults: Mapping[str, Any],
        peer: Peer,
        home: Home,
    ) -> None:
        """Use `container_factory`, or the engine, instead; `defaults` are env, cwd and user."""
        self.id = container_id
        self.name = name
        self.image = image
        self.built = built
        self.hostname = hostname
        self.pid = pid
        self.options = options
        self.retain = False
        """Whether `close` keeps the rw layer readable until `release`."""
        self.commands: deque[CommandRecord] = deque(maxlen=KEPT_COMMANDS)
        self._defaults = defaults
        self._agent = Agent(peer, self._died)
        self._home = home
        self._oom_kills = 0
        self._state: Literal["alive", "dead", "closed"] = "alive"
        self._has_rw_layer = True
        self._closing = threading.Lock()

    @property
    def limits(self) -> Limits:
        """What the container may use."""
        return self.options.limits

    @property
    def is_closed(self) -> bool:
        """Tell whether `close` was called."""
        return self._state == "closed"

    def run(
        self,
        command: Command,
        *,
        check: bool = True,
        input: str | bytes | None = None,
        text: bool = True,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        user: str | int | None = None,
        timeout: float | None = None,
        stdin: Stream = None,
        stdout: Stream = None,
        stderr: Stream = None,
        tty: bool = False,
    ) -> CompletedProcess[Any]:  # Any: text or bytes, as `text` says
        """Run a command and wait for its end; output is captured unless it is sent elsewhere.

        Raises CommandFailed for a status that is not zero (unless `check=False`), CommandTimeout
        after `timeout` seconds, when the command and all that it started are dead, CommandNotFound,
        CommandNotExecutable, ContainerDied. Output comes without the waiting for daemons that hold
        the pipes. With a terminal, stdout is what it shows.
        """
        __tracebackhide__ = True
        if input is not None and stdin is not None:
            raise ValueError("stdin and input may not both be used")
        limit_s = self._timeout_s(timeout)
        pipe = subprocess.PIPE
        process, record = self._start(
            command,
            env=env,
            cwd=cwd,
            user=user,
            stdin=pipe if input is not None else stdin,
            stdout=pipe if stdout is None else stdout,
            stderr=pipe if stderr is None else stderr,
            text=text,
            tty=tty,
        )
        with contextlib.closing(process):
            return self._finish(process, record, input, limit_s, check=check)

    def popen(
        self,
        command: Command,
        *,
        text: bool = True,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        user: str | int | None = None,
        stdin: Stream = None,
        stdout: Stream = subprocess.PIPE,
        stderr: Stream = subprocess.PIPE,
        tty: bool = False,
    ) -> Process:
        """Start a command and return at once; stdout and stderr are pipes unless sent elsewhere.

        A pipe that nobody reads holds 64 KiB: give `subprocess.DEVNULL` for a daemon that talks.
        """
        __tracebackhide__ = True
        process, _ = self._start(
            command,
            env=env,
            cwd=cwd,
            user=user,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            text=text,
            tty=tty,
        )
        return process

    def path(self, path: str | os.PathLike[str]) -> ContainerPath:
        """Return a path of the container; a relative one starts at its working directory."""
        self._home.touch(self)
        return ContainerPath(self._agent.ask_with_fds, absolute(path, self._defaults["cwd"]))

    def copy_in(self, source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
        """Copy a host file or folder into the container, as root's; parents are made.

        A target that is a folder, or ends with a slash, receives it under its own name.
        """
        into = os.fspath(target).endswith("/")
        copying.copy_in(Path(source), self.path(target), into=into)

    def copy_out(self, source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
        """Copy a file or folder of the container to the host; parents are made."""
        into = os.fspath(target).endswith("/")
        copying.copy_out(self.path(source), Path(target), into=into)

    def changes(self, *, ignore: Iterable[str] = ()) -> Changes:
        """Return what differs from the image; `ignore` takes globs such as "/var/log/**"."""
        self._require_rw_layer()
        self._home.touch(self)
        patterns = [ignore] if isinstance(ignore, str) else list(ignore)
        changes = self._home.changes(self)
        return changes.ignoring(patterns) if patterns else changes

    def diff(self, path: str | os.PathLike[str]) -> str:
        """Return the unified diff of one text file against the image; "" when it is the same."""
        self._require_rw_layer()
        name = absolute(path, self._defaults["cwd"])
        before = self._home.read_view(self, name, with_rw=False)
        after = self._home.read_view(self, name, with_rw=True)
        if before is None and after is None:
            raise FileNotFoundError(f"neither the image nor the container has the file {name}")
        if b"\0" in (before or b"") or b"\0" in (after or b""):
            return "" if before == after else f"Binary files a{name} and b{name} differ\n"
        lines = [
            (data or b"").decode("utf-8", "replace").splitlines(keepends=True)
            for data in (before, after)
        ]
        names = (f"a{name}" if before is not None else "/dev/null", f"b{name}")
        target = names[1] if after is not None else "/dev/null"
        found = difflib.unified_diff(*lines, names[0], target)
        return "".join(x if x.endswith("\n") else f"{x}\n\\ No newline at end of file\n" for x in found)

    def stats(self) -> Stats:
        """Return the figures so far, also of a container that is dead but not closed."""
        self._require_rw_layer()
        return Stats(**self._home.status(self)["stats"])

    def kill(self) -> None:
        """Kill every process of the container; its files can still be compared. Idempotent."""
        if self._state == "alive":
            self._state = "dead"
            self._home.kill(self, release=False)
            self._agent.close()

    def close(self) -> None:
        """End the container; returns when nothing of it is left. Idempotent."""
        with self._closing:
            if self._state == "closed":
                return
            was_alive, self._state = self._state == "alive", "closed"
            if was_alive:
                self._home.kill(self, release=not self.retain)
                self._agent.close()
            elif not self.retain:
                self._home.release(self)
            self._has_rw_layer = self.retain

    def release(self) -> None:
        """Give up the rw layer of a closed container that was retained. Idempotent."""
        self.retain = False
        if self._state == "closed" and self._has_rw_layer:
            self._has_rw_layer = False
            self._home.release(self)

    def pack_layer(self) -> Any:  # Any: a descriptor of the store, not known here
        """Keep the rw layer in the store as an OCI layer; a live container stands still meanwhile."""
        descriptor, _ = self.pack_counted(clamp_mtime=None)
        return descriptor

    def pack_counted(self, *, clamp_mtime: int | None) -> tuple[Any, int]:  # Any: as above
        """Pack as `pack_layer` does, no mtime later than `clamp_mtime`; count the entries too."""
        self._require_rw_layer()
        with self._stopped():
            return self._home.pack_counted(self, clamp_mtime=clamp_mtime)

    def processes(self) -> list[dict[str, Any]]:
        """Describe the processes (pid, ppid, user, state, argv); none when it is dead."""
        if self._state != "alive":
            return []
        try:
            found: list[dict[str, Any]] = self._agent.ask({"op": "processes"})["processes"]
        except ContainerDied:
            return []
        return found

    def limits_hit(self) -> list[str]:
        """Say which limits stopped something, a sentence each."""
        hit = []
        stats = self.stats()
        limits = self.limits
        if stats.oom_kills:
            size = "" if limits.memory is None else f" over {settings.shown_size(limits.memory)}"
            hit.append(f"memory: the kernel killed {stats.oom_kills} process(es){size}")
        if stats.pids_max_hits:
            hit.append(f"pids: refused {stats.pids_max_hits} time(s) to go over {limits.pids}")
        hit.extend(
            f"timeout: {shown(record.argv)} was killed after {record.duration_s:.1f} s"
            for record in self.commands
            if record.timed_out and record.duration_s is not None
        )
        return hit

    def __enter__(self) -> Container:
        """Return the container."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def __repr__(self) -> str:
        """Show id, name and state."""
        return f"<Container {self.id} {self.name!r} {self._state}>"

    def _start(
        self,
        command: Command,
        *,
        env: Mapping[str, str] | None,
        cwd: str | os.PathLike[str] | None,
        user: str | int | None,
        stdin: Stream,
        stdout: Stream,
        stderr: Stream,
        text: bool,
        tty: bool,
    ) -> tuple[Process, CommandRecord]:
        __tracebackhide__ = True
        self._require_alive()
        self._home.touch(self)
        call = Call(
            command=launch.check_command(command),
            env={**self._defaults["env"], **launch.check_env(env)},
            cwd=launch.working_dir(cwd, self._defaults["cwd"]),
            user=self._defaults["user"] if user is None else str(user),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            tty=tty,
        )
        record = CommandRecord(argv=call.argv)
        self.commands.append(record)
        try:
            process = self._agent.start(call, text=text)
        except ContainerError as error:
            record.output_tail = error.what
            record.returncode = getattr(error, "returncode", None)
            raise
        return process, record

    def _finish(
        self,
        process: Process,
        record: CommandRecord,
        data: str | bytes | None,
        limit_s: float,
        *,
        check: bool,
    ) -> CompletedProcess[Any]:  # Any: text or bytes, as the process says
        __tracebackhide__ = True
        encoded = data.encode() if isinstance(data, str) else data
        try:
            out, err, is_late = process.finish(encoded, time.monotonic() + limit_s)
            if is_late:
                process.kill_tree()
                more_out, more_err, _ = process.finish(None, None)
                out, err = _joined(out, more_out), _joined(err, more_err)
        except BaseException:
            with contextlib.suppress(ContainerError, OSError):
                process.kill_tree()  # Ctrl-C, say: nothing goes on behind the test's back
            raise
        ending = process.ending
        assert ending is not None  # noqa: S101  finish returns when the command has ended
        record.returncode, record.duration_s = ending.returncode, ending.duration_s
        record.timed_out = is_late
        record.output_tail = _tail(out, err)
        shown_out, shown_err = process.decoded(out), process.decoded(err)
        if is_late:
            raise CommandTimeout(process.args, limit_s, stdout=shown_out, stderr=shown_err)
        oom_killed = self._was_oom_killed(ending.returncode)
        if check and ending.returncode:
            reason = self._oom_reason() if oom_killed else ""
            raise CommandFailed(
                process.args, ending.returncode, stdout=shown_out, stderr=shown_err, reason=reason
            )
        return CompletedProcess(
            process.args,
            ending.returncode,
            shown_out,
            shown_err,
            ending=ending,
            oom_killed=oom_killed,
        )

    def _was_oom_killed(self, returncode: int) -> bool:
        """Tell whether the memory limit killed a process since the last look; looks if it may."""
        if self.limits.memory is None and returncode not in (-signal.SIGKILL, 137):
            return False
        kills = self.stats().oom_kills or 0
        is_more, self._oom_kills = kills > self._oom_kills, kills
        return is_more

    def _oom_reason(self) -> str:
        if self.limits.memory is None:
            return "out of memory: the kernel killed a process"
        size = settings.shown_size(self.limits.memory)
        return f"out of memory: over its limit of {size} (memory=…), the kernel killed a process"

    def _timeout_s(self, timeout: float | None) -> float:
        if timeout is None:
            return self.options.timeout_s
        return settings.parse_positive("timeout", timeout, unit="seconds")

    def _require_alive(self) -> None:
        __tracebackhide__ = True
        if self._state != "alive":
            raise self._died()

    def _require_rw_layer(self) -> None:
        if not self._has_rw_layer:
            raise ContainerDied(f"container {self.name} is closed and its rw layer given up")

    def _died(self) -> ContainerDied:
        """Find out why the container does not answer."""
        if self._state == "closed":
            return ContainerDied(f"container {self.name} is closed")
        if self._state == "dead":
            return ContainerDied(f"container {self.name} was killed by the test")
        try:
            status = self._home.status(self)["status"]
        except ContainerDied as error:
            return error
        tail = self.commands[-1].output_tail if self.commands else ""
        detail = f"last output:\n{tail}" if tail else ""
        if status is None:
            return ContainerDied(f"container {self.name} does not answer", detail=detail)
        self._state = "dead"
        code = os.waitstatus_to_exitcode(status)
        reason = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit status {code}"
        return ContainerDied(f"the init of container {self.name} was ended {reason}", detail=detail)

    @contextlib.contextmanager
    def _stopped(self) -> Iterator[None]:
        """Let every process stand still for the length of a `with` block."""
        is_alive = self._state == "alive"
        with contextlib.suppress(ContainerDied):
            if is_alive:
                self._agent.ask({"op": "stop", "stop": True})
        try:
            yield
        finally:
            with contextlib.suppress(ContainerDied):
                if is_alive:
                    self._agent.ask({"op": "stop", "stop": False})


def _joined(first: bytes | None, second: bytes | None) -> bytes | None:
    return second if first is None else first + (second or b"")


def _tail(out: bytes | None, err: bytes | None) -> str:
    data = (out or b"")[-TAIL_BYTES:] + (err or b"")[-TAIL_BYTES:]
    return data[-TAIL_BYTES:].decode("utf-8", "replace")
