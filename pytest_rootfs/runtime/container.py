"""A running container: commands, files, figures, and what it has changed."""

from __future__ import annotations

import contextlib
import os
import weakref
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from subprocess import PIPE
from typing import Any

from pytest_rootfs import settings
from pytest_rootfs.changeset import Changes
from pytest_rootfs.errors import CommandTimeout, ContainerError
from pytest_rootfs.runtime import branches, comparing, copying, launch, readiness, runs, waits
from pytest_rootfs.runtime.endings import Command, CompletedProcess
from pytest_rootfs.runtime.evidence import Evidence, gather, processes
from pytest_rootfs.runtime.home import Home
from pytest_rootfs.runtime.launch import Call, Defaults, Stream
from pytest_rootfs.runtime.life import Life
from pytest_rootfs.runtime.limit_watch import LimitWatch, full_spaces, space_note
from pytest_rootfs.runtime.live_limits import LiveLimits
from pytest_rootfs.runtime.path import AnyPath, ContainerPath, absolute, text_of
from pytest_rootfs.runtime.process import Process
from pytest_rootfs.runtime.records import CommandRecord
from pytest_rootfs.runtime.session import Created
from pytest_rootfs.runtime.spec import ContainerOptions
from pytest_rootfs.runtime.stats import Stats
from pytest_rootfs.runtime.terms import Terms, encoded, parse_timeout
from pytest_rootfs.runtime.waits import Pattern
from pytest_rootfs.snapshots import Snapshot

KEPT_COMMANDS = 50


class Container:
    """A started container. Close it, or use it in a `with` block."""

    def __init__(
        self,
        created: Created,
        *,
        name: str,
        image: Any,  # Any: an Image, which the runtime does not know
        built: Any,  # Any: a BuiltImage, likewise
        hostname: str,
        options: ContainerOptions,
        defaults: Defaults,
        home: Home,
    ) -> None:
        """Use `container_factory`, or the engine, instead."""
        self.id = created.container_id
        self.name = name
        self.image = image
        self.built = built
        self.hostname = hostname
        self.pid = created.pid
        self.options = options
        self.defaults = defaults
        self.retain = False
        """Whether `close` keeps the rw layer readable until `release`."""
        self._commands: deque[CommandRecord] = deque(maxlen=KEPT_COMMANDS)
        self._started: weakref.WeakSet[Process] = weakref.WeakSet()
        """Processes that the test may still look at."""
        self._newest: Process | None = None
        """The last one of them; kept, as `wait_for` may listen to it though nobody else does."""
        self._home = home
        self._limits = LiveLimits(options.limits, self._change_limit)
        self._watch = LimitWatch(self._limits, lambda: full_spaces(self._life.agent, options))
        self._life = Life(
            self,
            created,
            home,
            watch=self._watch,
            commands=self._commands,
            space_note=partial(space_note, self._limits, options),
            overhear=self._overhear,
        )

    @property
    def limits(self) -> LiveLimits:
        """What the container may use; assign to change it: `container.limits.memory = "8M"`."""
        return self._limits

    @property
    def is_closed(self) -> bool:
        """Tell whether `close` was called."""
        return self._life.state == "closed"

    @property
    def commands(self) -> Sequence[CommandRecord]:
        """The last commands, oldest first, those that have ended by now with their status."""
        for process in list(self._started):
            process.note_end()
        return self._commands

    def run(
        self,
        command: Command,
        *,
        check: bool = True,
        input: str | bytes | None = None,  # noqa: A002  subprocess's name
        text: bool = True,
        env: Mapping[str, str] | None = None,
        cwd: AnyPath | None = None,
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
        the pipes; of a stream of more than 64 MiB, the first and the last half with a line between
        that says how much is left out. With a terminal, stdout is what it shows.
        """
        __tracebackhide__ = True
        if input is not None and stdin is not None:
            raise ValueError("stdin and input may not both be used")
        data = None if input is None else encoded(input)
        limit_s = parse_timeout(timeout) or self.options.timeout_s
        call = launch.prepare(
            command,
            self.defaults,
            env=env,
            cwd=cwd,
            user=user,
            stdio=(
                stdin if data is None else PIPE,
                PIPE if stdout is None else stdout,
                PIPE if stderr is None else stderr,
            ),
            tty=tty,
        )
        with contextlib.closing(self._start(call, Terms(text=text))) as process:
            try:
                outcome = runs.finish(process, data, limit_s)
            except CommandTimeout as late:
                late.detail = "\n".join(filter(None, (self._life.why_late(), late.detail)))
                raise
        hits = self._life.look_at_limits(outcome.ending.returncode, is_error=check)
        if check and outcome.ending.returncode:
            raise outcome.failed(hits.reason)
        return outcome.completed(oom_killed=hits.oom_killed)

    def popen(
        self,
        command: Command,
        *,
        check: bool = False,
        input: str | bytes | None = None,  # noqa: A002  subprocess's name
        text: bool = True,
        env: Mapping[str, str] | None = None,
        cwd: AnyPath | None = None,
        user: str | int | None = None,
        timeout: float | None = None,
        stdin: Stream = None,
        stdout: Stream = PIPE,
        stderr: Stream = PIPE,
        tty: bool = False,
    ) -> Process:
        """Start a command and return at once; stdout and stderr are pipes unless sent elsewhere.

        `input` is what the command reads, from a file in memory; with `tty`, what `communicate` and
        `wait` type. `timeout` is how long these two wait if they are told nothing; with `check`
        they raise CommandFailed for a status that is not zero. A pipe that nobody reads holds
        64 KiB: give `subprocess.DEVNULL` for a daemon that talks.
        """
        __tracebackhide__ = True
        if input is not None and stdin not in (None, PIPE):
            raise ValueError("stdin and input may not both be used")
        data = None if input is None else encoded(input)
        typed = data if tty else None
        terms = Terms(text=text, input=typed, timeout_s=parse_timeout(timeout), check=check)
        with launch.input_of(stdin, None if tty else data) as source:
            call = launch.prepare(
                command,
                self.defaults,
                env=env,
                cwd=cwd,
                user=user,
                stdio=(source, stdout, stderr),
                tty=tty,
            )
            process = self._start(call, terms)
        process.close_when_dropped()
        self._started.add(process)
        self._newest = process
        return process

    def path(self, path: AnyPath) -> ContainerPath:
        """Return a path of the container; a relative one starts at its working directory."""
        self._home.touch(self)
        return ContainerPath(self._life, absolute(path, self.defaults.cwd))

    def copy_in(self, source: str | os.PathLike[str], target: AnyPath) -> None:
        """Copy a host file or folder into the container, as root's; parents are made.

        A target that is a folder, or ends with a slash, receives it under its own name.
        """
        into = text_of(target).endswith("/")
        copying.copy_in(copying.host_path(source), self.path(target), into=into)

    def copy_out(self, source: AnyPath, target: str | os.PathLike[str]) -> None:
        """Copy a file or folder of the container to the host; parents are made."""
        into = os.fsdecode(target).endswith("/")
        copying.copy_out(self.path(source), copying.host_path(target), into=into)

    def changes(self, *, ignore: Iterable[str] = ()) -> Changes:
        """Return what differs from the image; `ignore` takes globs such as "/var/log/**"."""
        return comparing.changes(self._life, ignore)

    def diff(self, path: AnyPath) -> str:
        """Return the unified diff of one text file against the image; "" when it is the same.

        Raises FileNotFoundError where neither has anything, IsADirectoryError for a folder, OSError
        for what is no file either.
        """
        return comparing.diff(self._life, absolute(path, self.defaults.cwd))

    def stats(self) -> Stats:
        """Return the figures so far, also of a container that is dead but not closed."""
        self._life.require_rw_layer()
        return Stats(**self._home.status(self)["stats"])

    def wait_for(
        self,
        *,
        port: int | str | None = None,
        path: AnyPath | None = None,
        command: Command | None = None,
        output: Pattern | None = None,
        timeout: float = 30,
    ) -> None:
        """Wait until all that is named holds, in one look; the first look is at once.

        `port` (8080, "53/udp"): something listens on it inside. `path`: it exists. `command`: it
        ends with status 0. `output`: the newest process of `popen` has said the text, or a match of
        the compiled expression (see `Process.wait_for_output`). Raises ContainerError at once when
        it can no longer hold, because the process has ended, CommandNotFound, ContainerDied; and
        after `timeout` seconds a ContainerError that is a TimeoutError and says what was seen last.
        """
        __tracebackhide__ = True
        limit_s = settings.parse_seconds("timeout", timeout)
        conditions = readiness.conditions(
            self, self._start, self._newest, port=port, path=path, command=command, output=output
        )
        self._life.require_alive()
        waits.until(
            conditions,
            limit_s,
            subject=f"container {self.name}",
            why_hopeless=partial(readiness.why_nothing_will_come, self, self._newest),
            context=partial(waits.last_output, self._newest),
        )

    def kill(self) -> None:
        """Kill every process of the container; its files can still be compared. Idempotent."""
        self._life.kill()

    def freeze(self) -> None:
        """Let every process stand still until `thaw`; files can be read, written and compared.

        Idempotent. Meanwhile `run` and `popen` raise ContainerError; a command that is being waited
        for keeps its time-out. Raises ContainerDied.
        """
        self._home.touch(self)
        self._life.freeze()

    def thaw(self) -> None:
        """Let those processes go on that `freeze` has stopped. Idempotent; raises ContainerDied."""
        self._home.touch(self)
        self._life.thaw()

    def restart(self) -> None:
        """Kill every process and begin anew with the same files, mounts and limits, as docker does.

        What lay in tmpfs is gone; `pid` is another one. `stats()` goes on counting. Works on a
        container that is dead, too. When it cannot start again (ContainerError), it is dead.
        """
        __tracebackhide__ = True
        self._home.touch(self)
        self.pid = self._life.restart()

    def snapshot(self, name: str | None = None) -> Snapshot:
        """Keep the files as they are now, dead or alive, to come back to with `reset`.

        Takes time for what has changed, not for the image; processes stand still meanwhile.
        """
        return branches.snapshot(self._life, name)

    def reset(self, to: Snapshot | None = None) -> None:
        """Kill every process and begin anew with the image's files, or a snapshot's.

        Name, mounts, limits and figures stay, as with `restart`. The snapshot may be another
        container's of the same image; else ContainerError, and nothing has happened.
        """
        __tracebackhide__ = True
        self.pid = branches.reset(self._life, to)

    def fork(self, name: str | None = None) -> Container:
        """Start another container with these files and options; both go on independently.

        What runs here is not copied. The caller closes it; with a fixture's, it is closed as well.
        """
        __tracebackhide__ = True
        return branches.fork(self._life, name)

    def commit(self, tag: str | None = None) -> Any:  # Any: an Image, which the runtime ignores
        """Return an `Image` of the files as they are now: the image, and one layer on top.

        With a tag the store keeps it under that name. Its configuration is the image's. Raises
        ImageError for the image `host`, which no other host could start.
        """
        return branches.commit(self._life, tag)

    def close(self) -> None:
        """End the container; returns when nothing of it is left. Idempotent."""
        self._newest = None
        self._life.close(retain=self.retain, is_awaited=True)

    def end(self) -> None:
        """Do what `close` does, but for the wait until no zombie is left of its first process."""
        self._newest = None
        self._life.close(retain=self.retain, is_awaited=False)

    def release(self) -> None:
        """Give up the rw layer of a closed container that was retained. Idempotent."""
        self.retain = False
        self._life.release()

    def pack_layer(
        self, *, clamp_mtime: int | None = None
    ) -> tuple[Any, int]:  # Any: a descriptor of the store, not known here
        """Keep the rw layer in the store as an OCI layer; return that and its number of entries.

        A live container stands still meanwhile. No mtime is later than `clamp_mtime` (seconds).
        """
        return comparing.pack(self._life, clamp_mtime)

    def processes(self) -> list[dict[str, Any]]:
        """Describe the processes (pid, ppid, user, state, argv); none when it is dead."""
        return processes(self._life)

    def gather(self, *, with_files: bool) -> Evidence:
        """Look at everything for the report of a failure; never raises for what is not there."""
        describe = partial(self._watch.describe, records=self._commands)
        return gather(self._life, describe, with_files=with_files)

    def limits_hit(self) -> list[str]:
        """Say which limits stopped something, a sentence each."""
        self._life.require_rw_layer()
        return self._watch.describe(self._home.status(self), self._commands)

    def __enter__(self) -> Container:
        """Return the container; raises ContainerDied when it is closed already."""
        if self._life.state == "closed":
            raise self._life.died()
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def __repr__(self) -> str:
        """Show id, name and state."""
        state = "frozen" if self._life.is_frozen else self._life.state
        return f"<Container {self.id} {self.name!r} {state}>"

    def _start(self, call: Call, terms: Terms, record: CommandRecord | None = None) -> Process:
        __tracebackhide__ = True
        self._life.require_alive()
        self._home.touch(self)
        if record is None:
            record = CommandRecord(argv=call.argv)
            self._commands.append(record)
        try:
            return self._life.start(call, terms, record)
        except ContainerError as error:
            record.started = False
            record.output_tail = error.what
            record.returncode = getattr(error, "returncode", None)
            raise

    def _overhear(self) -> None:
        for process in list(self._started):
            process.overhear()

    def _change_limit(self, key: str, value: Any) -> None:  # Any: a number or None
        __tracebackhide__ = True
        self._life.require_rw_layer()
        self._home.touch(self)
        self._home.limit(self, key, value)
