"""What can be waited for in a container, beside what a process says: ports, paths, commands."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from subprocess import PIPE
from typing import TYPE_CHECKING

from pytest_rootfs.errors import CommandTimeout, shown
from pytest_rootfs.runtime import launch, runs
from pytest_rootfs.runtime.endings import Command
from pytest_rootfs.runtime.launch import Call, Defaults
from pytest_rootfs.runtime.path import AnyPath, ContainerPath
from pytest_rootfs.runtime.process import Process
from pytest_rootfs.runtime.records import CommandRecord
from pytest_rootfs.runtime.terms import Terms
from pytest_rootfs.runtime.waits import Condition, Pattern, SaidText, tail

if TYPE_CHECKING:
    from pytest_rootfs.runtime.container import Container

SHORTEST_TRY_S = 0.001
LISTENING = {"tcp": "0A", "udp": "07"}
"""The state of a socket that listens, and of one that is bound; enum in net/tcp_states.h."""


class ListeningPort(Condition):
    """Something listens on a port.

    Told from the kernel's table, not by connecting: a server that takes a single connection, or
    counts them, is not disturbed. The table is that of init's network namespace; it is read through
    the container's files and needs no program in the image.
    """

    def __init__(self, port: object, net: ContainerPath) -> None:
        self._number, self._protocol = parse_port(port)
        self._net = net
        self._found: list[int] = []

    def holds(self, left_s: float) -> bool:  # noqa: ARG002  a look takes no time
        """Look into the table."""
        self._found = sorted({port for name in ("", "6") for port in self._ports(name)})
        return self._number in self._found

    def missing(self) -> str:
        """Name the port."""
        return f"nothing listens on port {self._number}/{self._protocol}"

    def seen(self) -> str:
        """Name the ports that are listened on."""
        found = ", ".join(map(str, self._found)) or "none"
        return f"{self._protocol} ports that are listened on: {found}"

    def _ports(self, suffix: str) -> list[int]:
        try:
            lines = (self._net / f"{self._protocol}{suffix}").read_text().splitlines()[1:]
        except FileNotFoundError:
            return []  # a kernel without IPv6
        rows = [line.split() for line in lines]  # proc_net_tcp.rst: number, local, remote, state
        state = LISTENING[self._protocol]
        return [int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == state]


class ExistingPath(Condition):
    """A path exists, symlinks followed."""

    def __init__(self, path: ContainerPath) -> None:
        self._path = path

    def holds(self, left_s: float) -> bool:  # noqa: ARG002  a look takes no time
        """Look."""
        return self._path.exists()

    def missing(self) -> str:
        """Name the path."""
        return f"{self._path} does not exist"

    def seen(self) -> str:
        """Say what is in the nearest folder that exists."""
        for folder in self._path.parents:
            if folder.is_dir():
                names = sorted(entry.name for entry in folder.iterdir())
                more = f" and {len(names) - 10} more" if len(names) > 10 else ""
                return f"{folder} has: {', '.join(names[:10]) or 'nothing'}{more}"
        return ""


class SucceedingCommand(Condition):
    """A command ends with status 0; each try may take what is left of the time."""

    def __init__(
        self,
        command: Command,
        defaults: Defaults,
        start: Callable[[Call, Terms, CommandRecord | None], Process],
    ) -> None:
        stdio = (None, PIPE, PIPE)
        self._call = launch.prepare(
            command, defaults, env=None, cwd=None, user=None, stdio=stdio, tty=False
        )
        self._start = start
        self._record: CommandRecord | None = None
        """One for all tries, or they would push what a test did out of its report."""
        self._seen = ""

    def holds(self, left_s: float) -> bool:
        """Run it; raises CommandNotFound and its like at once."""
        process = self._start(self._call, Terms(), self._record)
        self._record = process.record
        try:
            with contextlib.closing(process):
                outcome = runs.finish(process, None, max(left_s, SHORTEST_TRY_S))
        except CommandTimeout as late:
            # a try that the end of the time has cut short tells less than the one before
            self._seen = self._seen or f"its only try did not end\n{late.detail}"
            return False
        finally:
            process.record.timed_out = False  # no limit that somebody had set was hit
        returncode = outcome.ending.returncode
        output = tail(f"{outcome.stdout}{outcome.stderr}")
        self._seen = f"its last try ended with exit status {returncode}\n{output}"
        return returncode == 0

    def missing(self) -> str:
        """Name the command."""
        return f"command {shown(self._call.command)} does not succeed"

    def seen(self) -> str:
        """Tell the last status and output."""
        return self._seen.strip()


def conditions(
    container: Container,
    start: Callable[[Call, Terms, CommandRecord | None], Process],
    newest: Process | None,
    *,
    port: int | str | None,
    path: AnyPath | None,
    command: Command | None,
    output: Pattern | None,
) -> list[Condition]:
    """Return what `wait_for` is asked to wait for; `newest` is the last process of `popen`."""
    found: list[Condition] = []
    if port is not None:
        found.append(ListeningPort(port, container.path("/proc/1/net")))
    if path is not None:
        found.append(ExistingPath(container.path(path)))
    if output is not None:
        if newest is None:
            raise ValueError(f"output={output!r}: no process was started by popen")
        found.append(SaidText(newest, output))
    if command is not None:
        found.append(SucceedingCommand(command, container.defaults, start))
    if not found:
        raise TypeError("nothing to wait for: give port=, path=, command= or output=")
    return found


def why_nothing_will_come(container: Container, newest: Process | None) -> str:
    """Say why nobody is left who could open a port or make a file; "" while somebody may be.

    A process that has ended with status 0 may have left a daemon, and any other process that still
    runs may be one.
    """
    if newest is None or (newest.is_closed and newest.returncode is None):
        return ""
    if newest.poll() in (None, 0) or container.processes():
        return ""
    return newest.ended()


def parse_port(port: object) -> tuple[int, str]:
    """Return number and protocol of 80, "80" or "53/udp"; raises ValueError for what is none."""
    number, _, protocol = str(port).partition("/")
    is_number = isinstance(port, (int, str)) and not isinstance(port, bool) and number.isdecimal()
    if is_number and 0 < int(number) < 65536 and (protocol or "tcp") in LISTENING:
        return int(number), protocol or "tcp"
    raise ValueError(f'port={port!r} is not a port: give 1 to 65535, or with a protocol "53/udp"')
