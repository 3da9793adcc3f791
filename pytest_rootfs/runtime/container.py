"""A running container: commands, files, figures, and what it has changed."""

from __future__ import annotations

import contextlib
import os
import posixpath
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pytest_rootfs import settings, textdiff
from pytest_rootfs.changeset import Changes
from pytest_rootfs.errors import ArchiveRejected, ContainerDied, ContainerError, shown
from pytest_rootfs.runtime import copying, launch, runs
from pytest_rootfs.runtime.agent import Agent
from pytest_rootfs.runtime.client import Peer, StepFailed
from pytest_rootfs.runtime.home import Home
from pytest_rootfs.runtime.launch import Call, Stream
from pytest_rootfs.runtime.path import ContainerPath, absolute
from pytest_rootfs.runtime.process import Command, CompletedProcess, Process
from pytest_rootfs.runtime.runs import CommandRecord
from pytest_rootfs.runtime.spec import ContainerOptions, Limits
from pytest_rootfs.runtime.stats import Stats

KEPT_COMMANDS = 50
DYING_S = 1.0
"""How long an init that no longer answers may take to die with all its processes."""


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
        self._death: ContainerDied | None = None
        self._closing = threading.Lock()

    @property
    def limits(self) -> Limits:
        """What the container may use."""
        return self.options.limits

    @property
    def defaults(self) -> Mapping[str, Any]:  # Any: `env` is a mapping, `cwd` and `user` are texts
        """Environment, working directory and user of a command that names none."""
        return self._defaults

    @property
    def is_closed(self) -> bool:
        """Tell whether `close` was called."""
        return self._state == "closed"

    def run(
        self,
        command: Command,
        *,
        check: bool = True,
        input: str | bytes | None = None,  # noqa: A002  subprocess's name
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
        limit_s = self.options.timeout_s
        if timeout is not None:
            limit_s = settings.parse_positive("timeout", timeout, unit="seconds")
        pipe = subprocess.PIPE
        call = self._call(
            command,
            env=env,
            cwd=cwd,
            user=user,
            stdin=pipe if input is not None else stdin,
            stdout=pipe if stdout is None else stdout,
            stderr=pipe if stderr is None else stderr,
            tty=tty,
        )
        process, record = self._start(call, text=text)
        data = input.encode() if isinstance(input, str) else input
        with contextlib.closing(process):
            outcome = runs.finish(process, record, data, limit_s)
        oom_killed = self._was_oom_killed(outcome.ending.returncode)
        if check and outcome.ending.returncode:
            raise outcome.failed(self._oom_reason() if oom_killed else "")
        return outcome.completed(oom_killed=oom_killed)

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
        call = self._call(
            command,
            env=env,
            cwd=cwd,
            user=user,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            tty=tty,
        )
        process, _ = self._start(call, text=text)
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
        try:
            changes = self._home.changes(self)
        except (StepFailed, ArchiveRejected):  # files vanish or change: again, standing still
            with self._stopped():
                changes = self._home.changes(self)
        return changes.ignoring(patterns) if patterns else changes

    def diff(self, path: str | os.PathLike[str]) -> str:
        """Return the unified diff of one text file against the image; "" when it is the same."""
        self._require_rw_layer()
        name = posixpath.normpath(absolute(path, self._defaults["cwd"]))
        name, before = self._home.read_base(name)
        after = before
        if name in self.changes():
            after = self._home.read_changed(self, name)
        if before is None and after is None:
            raise FileNotFoundError(f"neither the image nor the container has the file {name}")
        return textdiff.unified(name, before, after)

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
            try:
                if was_alive:
                    self._home.kill(self, release=not self.retain)
                elif not self.retain:
                    self._home.release(self)
            finally:
                self._agent.close()
                self._has_rw_layer = self.retain

    def release(self) -> None:
        """Give up the rw layer of a closed container that was retained. Idempotent."""
        self.retain = False
        if self._state == "closed" and self._has_rw_layer:
            self._has_rw_layer = False
            self._home.release(self)

    def pack_layer(self) -> Any:  # Any: a descriptor of the store, not known here
        """Keep the rw layer in the store as an OCI layer; a live container stands still for it."""
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
        self._require_rw_layer()
        status = self._home.status(self)
        stats = Stats(**status["stats"])
        limits = self.limits
        if stats.oom_kills:
            size = "" if limits.memory is None else f" over {settings.shown_size(limits.memory)}"
            hit.append(f"memory: the kernel killed {stats.oom_kills} process(es){size}")
        if stats.pids_max_hits:
            hit.append(f"pids: refused {stats.pids_max_hits} time(s) to go over {limits.pids}")
        if limits.disk is not None and status["disk_free_bytes"] == 0:
            hit.append(f"disk: the rw layer is full at {settings.shown_size(limits.disk)}")
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

    def _call(
        self,
        command: Command,
        *,
        env: Mapping[str, str] | None,
        cwd: str | os.PathLike[str] | None,
        user: str | int | None,
        stdin: Stream,
        stdout: Stream,
        stderr: Stream,
        tty: bool,
    ) -> Call:
        return Call(
            command=launch.check_command(command),
            env={**self._defaults["env"], **launch.check_env(env)},
            cwd=launch.working_dir(cwd, self._defaults["cwd"]),
            user=self._defaults["user"] if user is None else str(user),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            tty=tty,
        )

    def _start(self, call: Call, *, text: bool) -> tuple[Process, CommandRecord]:
        __tracebackhide__ = True
        self._require_alive()
        self._home.touch(self)
        record = CommandRecord(argv=call.argv)
        self.commands.append(record)
        try:
            return self._agent.start(call, text=text), record
        except ContainerError as error:
            record.output_tail = error.what
            record.returncode = getattr(error, "returncode", None)
            raise

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
        if self._death is not None:
            return ContainerDied(self._death.what, detail=self._death.detail)
        if self._state == "dead":
            return ContainerDied(f"container {self.name} was killed by the test")
        try:
            # its socket closes a moment before it is dead
            status = self._home.status(self, wait_s=DYING_S)["status"]
        except ContainerDied as error:
            return error
        tail = next((x.output_tail for x in reversed(self.commands) if x.output_tail), "")
        detail = f"last output:\n{tail}" if tail else ""
        if status is None:
            return ContainerDied(f"container {self.name} does not answer", detail=detail)
        self._state = "dead"
        code = os.waitstatus_to_exitcode(status)
        reason = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit status {code}"
        self._death = ContainerDied(
            f"the init of container {self.name} was ended {reason}", detail=detail
        )
        return self._death

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
