"""Follow a tree of processes by ptrace(2), and send signals at n-th system calls.

strace counts each call by its name; here all calls of a process count, so every moment between two
of them can be forced. A process is known by its depth: what the followed one forks is one deeper.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import time
from collections import Counter, deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from process_table import is_alive

CONT, SYSCALL, SEIZE, INTERRUPT, LISTEN = 7, 24, 0x4206, 0x4207, 0x4208
GETEVENTMSG, GET_SYSCALL_INFO = 0x4201, 0x420E
SYSGOOD, FORK, VFORK, CLONE, EXITKILL = 1, 2, 4, 8, 0x100000
FORK_EVENTS, STOP_EVENT = (1, 2, 3), 128
IS_ENTRY = 1
INFO = struct.Struct("<B3xIQQQ6Q")  # struct ptrace_syscall_info, <linux/ptrace.h>
WALL = 0x40000000
CALL_STOP = signal.SIGTRAP | 0x80
PAUSE_S = 0.0002
MISSES_MAX = 2
UNKNOWN_DEPTH = 99
LASTING_DEPTH = 2
"""Below it there is one process at a time, for long; above, a new one for each life."""

LOOP_ENDS = 0x57A9
"""The first process tells that its tests are over by getpriority(PRIO_PGRP, LOOP_ENDS)."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> int:
    """Call ptrace(2); raises OSError."""
    result: int = _libc.ptrace(request, pid, address, data)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), f"ptrace {request:#x} {pid}")
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """The n-th call of a process, since its birth or the last strike, and what it gets there.

    Or its first fork from that call on: when parent and child are there, and neither has run.
    """

    depth: int
    number: int
    is_fork: bool = False
    signal: signal.Signals = signal.SIGKILL


@dataclass(slots=True, kw_only=True)
class Strike:
    """A signal that was sent, and how long the victim's tree has outlived it."""

    moment: Moment
    victim: int
    at: float
    is_loop_over: bool
    alive: set[int]
    outlived_s: float = 0.0


@dataclass(slots=True)
class CallStops:
    """The followed processes, and the strikes that are still to come."""

    root: int
    moments: Iterable[Moment]
    calls: Counter[int] = field(default_factory=Counter)
    """How many each followed process has made, as far as they were counted."""
    depths: dict[int, int] = field(default_factory=dict)
    strikes: list[Strike] = field(default_factory=list)
    ended: set[int] = field(default_factory=set)
    missed: list[Moment] = field(default_factory=list)
    """Moments that never came: a process made fewer calls than it does at other times."""
    status: int | None = None
    _pending: deque[Moment] = field(default_factory=deque)
    _old: set[int] = field(default_factory=set)
    """Who was there before the next moment was awaited, and is not counted."""
    _misses: int = 0
    _parents: dict[int, int] = field(default_factory=dict)
    _is_loop_over: bool = False
    _counts_all: bool = False
    _deadline: float = 0.0

    def __post_init__(self) -> None:
        self._pending.extend(self.moments)
        self._counts_all = not self._pending
        self.depths[self.root] = 0
        ptrace(SEIZE, self.root, 0, SYSGOOD | FORK | VFORK | CLONE | EXITKILL)
        ptrace(INTERRUPT, self.root)

    def follow(self, patience_s: float, grace_s: float) -> bool:
        """Follow until all are gone; tell whether they are, that long after the first one's end."""
        self._deadline = time.monotonic() + patience_s
        while time.monotonic() < self._deadline:
            try:
                pid, status = os.waitpid(-1, WALL | os.WNOHANG)
            except ChildProcessError:
                return True
            if not pid and self.ended >= self.depths.keys():
                return True  # what is left was not started by the first
            if not pid:
                time.sleep(PAUSE_S)
            elif os.WIFSTOPPED(status):
                with suppress(ProcessLookupError):  # killed meanwhile
                    self._resume(pid, status)
            else:
                self._note_end(pid, status, grace_s)
        return False

    def _resume(self, pid: int, status: int) -> None:
        if pid not in self.depths:  # its first stop came before the fork's, or the parent is dead
            self._note_birth(pid)
        number, event = os.WSTOPSIG(status), status >> 16
        if event == STOP_EVENT and number != signal.SIGTRAP:
            ptrace(LISTEN, pid)
            return
        if event in FORK_EVENTS:
            self._note_birth(message_of(pid))
            self._look_at_fork(pid)
        if number == CALL_STOP:
            self._look_at_call(pid)
        is_delivery = not event and number != CALL_STOP
        way = SYSCALL if self._counts(pid) else CONT
        ptrace(way, pid, 0, number if is_delivery else 0)

    def _note_birth(self, child: int) -> None:
        if child in self.depths:
            return
        group, parent = family_of(child)
        parent = parent if group == child else group
        self.depths[child] = self.depths.get(parent, UNKNOWN_DEPTH) + (group == child)
        self._parents[child] = parent
        for strike in self.strikes:
            strike.alive |= {child} if parent in strike.alive else set()

    def _look_at_call(self, pid: int) -> None:
        info = ctypes.create_string_buffer(INFO.size)
        ptrace(GET_SYSCALL_INFO, pid, INFO.size, ctypes.addressof(info))
        kind, *_, first, second = INFO.unpack(info.raw)[:7]
        if kind != IS_ENTRY or not self._counts(pid):
            return
        self._is_loop_over |= pid == self.root and (first, second) == (os.PRIO_PGRP, LOOP_ENDS)
        self.calls[pid] += 1
        awaited = self._pending[0] if self._pending else None
        if awaited and not awaited.is_fork and self.calls[pid] == awaited.number:
            self._strike(pid)

    def _look_at_fork(self, pid: int) -> None:
        if not self._pending or not self._counts(pid):
            return
        if self._pending[0].is_fork and self.calls[pid] >= self._pending[0].number:
            self._strike(pid)

    def _counts(self, pid: int) -> bool:
        if self._counts_all:
            return True
        is_awaited = not self.strikes or not self.strikes[-1].alive
        return (
            is_awaited
            and bool(self._pending)
            and self.depths.get(pid) == self._pending[0].depth
            and pid not in self._old
        )

    def _strike(self, pid: int) -> None:
        moment, self._misses = self._pending.popleft(), 0
        alive = {pid}
        for child, parent in self._parents.items():  # in the order of their birth
            alive |= {child} if parent in alive and is_alive(child) else set()
        strike = Strike(
            moment=moment,
            victim=pid,
            at=time.monotonic(),
            is_loop_over=self._is_loop_over,
            alive=alive,
        )
        self.strikes.append(strike)
        os.kill(pid, moment.signal)

    def _note_end(self, pid: int, status: int, grace_s: float) -> None:
        now = time.monotonic()
        self.ended.add(pid)
        if pid == self.root:
            self.status, self._deadline = status, now + grace_s
            self.missed += self._pending
        is_missed = self._counts(pid) and bool(self._pending) and bool(self.calls[pid])
        self._misses += is_missed
        if self._misses > MISSES_MAX:
            self.missed.append(self._pending.popleft())
            self._misses = 0
            self._await_next()
        for strike in self.strikes:
            if pid in strike.alive:
                strike.alive.remove(pid)
                strike.outlived_s = now - strike.at
                if not strike.alive:
                    self._await_next()

    def _await_next(self) -> None:
        """Count from now on: init and commands that are yet to be born, others as they go on."""
        if not self._pending:
            return
        depth = self._pending[0].depth
        peers = [pid for pid, own in self.depths.items() if own == depth and pid not in self.ended]
        self._old = set(peers) if depth > LASTING_DEPTH else set()
        for pid in set(peers) - self._old:
            self.calls[pid] = 0
            with suppress(ProcessLookupError):
                ptrace(INTERRUPT, pid)  # it goes on to its next call, no longer to its end


def message_of(pid: int) -> int:
    """Return what a stop tells: after a fork, the child, as a pid of ours."""
    message = ctypes.c_ulong()
    ptrace(GETEVENTMSG, pid, 0, ctypes.addressof(message))
    return int(message.value)


def family_of(pid: int) -> tuple[int, int]:
    """Return the process that a thread belongs to, itself if it is one, and the parent."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return pid, 0
    facts = dict(line.split(":", 1) for line in status.splitlines())
    return int(facts["Tgid"]), int(facts["PPid"])
