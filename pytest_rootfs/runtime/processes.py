"""The processes of a container, as its init sees them in /proc; proc(5).

Every command starts in a cgroup namespace of its own. A process cannot leave it without
CAP_SYS_ADMIN, and its children inherit it, so it tells for certain which processes a command
started, daemons that were re-parented included.
"""

from __future__ import annotations

import errno
import os
import time

from pytest_rootfs.kernel import signals
from pytest_rootfs.runtime import open_files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_rootfs.runtime.protocol import Message

DYING_S = 10.0
STOPPING_S = 1.0
SETTLING_S = 0.02
STILL = "TtZX"
"""The states of a task that executes nothing: stopped, traced and stopped, dead; proc(5)."""

LISTED = 200
SHOWN_BYTES = 4096


def marker_of(pid: int | str) -> int:
    """Return the number of a process's cgroup namespace, 0 when it is gone."""
    try:
        return os.stat(f"/proc/{pid}/ns/cgroup").st_ino
    except OSError:
        return 0


def kill_marked(marker: int) -> None:
    """Kill every process with a marker; returns when none is left but zombies.

    Stopped first, so that a fork bomb cannot outrun the kills. Raises OSError (ETIMEDOUT) when one
    does not die: it waits for a device, or a file system, uninterruptibly.
    """
    deadline = time.monotonic() + DYING_S
    while pids := _marked(marker):
        if time.monotonic() > deadline:
            raise OSError(errno.ETIMEDOUT, f"process {pids[0]} does not die", "kill")
        for number in (signals.SIGSTOP, signals.SIGKILL):
            for pid in pids:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    pass


def stop_all() -> dict[int, str]:
    """Stop every process but this one; return the state that each was in.

    A signal sent to all reaches a fork under way, too: it starts over with the signal pending
    (fork(2) since Linux 4.20), so none escapes. Returns when all stand still. One that waits in the
    kernel (D) for a disk, or for what it has started by vfork(2), stops before it goes on.
    """
    states = {pid: _stat_fields(pid)[0] for pid in _pids()}
    try:
        os.kill(-1, signals.SIGSTOP)
    except ProcessLookupError:
        return states  # there is none
    began, pause_s, still = time.monotonic(), 0.0001, STILL
    while not all(_is_in(pid, still) for pid in _pids()):
        passed_s = time.monotonic() - began
        if passed_s > STOPPING_S:
            break
        still = STILL if passed_s < SETTLING_S else STILL + "D"
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.01)
    return states


def continue_all(states: dict[int, str]) -> None:
    """Let every process go on that was not stopped before, children first.

    So a shell that waits does not see them stopped. While all stood still none was forked: no
    number in `states` is another's now.
    """
    for pid in sorted(_pids(), reverse=True):
        if pid != os.getpid() and states.get(pid) != "T":
            try:
                os.kill(pid, signals.SIGCONT)
            except ProcessLookupError:
                pass


def _is_in(pid: int, states: str) -> bool:
    """Tell whether every thread of a process is in one of these states; init always is."""
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return True  # it is gone
    own = pid == os.getpid()
    return own or all(_stat_fields(f"{pid}/task/{task}")[0] in states for task in tasks)


def _marked(marker: int) -> list[int]:
    own = os.getpid()
    return [
        pid
        for pid in _pids()
        if pid != own and marker_of(pid) == marker and _stat_fields(pid)[0] not in ("Z", "X", "")
    ]


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def scene(states: dict[int, str]) -> Message:
    """Describe the processes with what each has open (`files`), and the mounts.

    `states` are those before all were stopped. `more_processes` and `more_files` count what is
    left out.
    """
    found = listing()
    sockets = open_files.sockets() if found else {}
    for each in found:
        each["state"] = states.get(each["pid"], each["state"])
        try:
            each["files"], each["more_files"] = open_files.describe(each["pid"], sockets)
        except OSError:
            each["files"], each["more_files"] = [], 0  # it has ended
    return {
        "processes": found,
        "more_processes": max(0, len(_pids()) - LISTED),
        "mounts": open_files.mounts(),
    }


def listing() -> list[Message]:
    """Describe every process but init: pid, ppid, user id, state, argv; at most 200."""
    found: list[Message] = []
    for pid in sorted(_pids())[:LISTED]:
        if pid == 1:
            continue
        try:
            user = os.stat(f"/proc/{pid}").st_uid
            if not _read(f"/proc/{pid}/cmdline"):
                time.sleep(0.001)  # between its exec and the placing of its words; or a zombie
            argv = _read(f"/proc/{pid}/cmdline")[:SHOWN_BYTES].rstrip(b"\0").split(b"\0")
        except OSError:
            continue
        state, parent, name = _stat_fields(pid)
        shown = [os.fsdecode(word) for word in argv] if argv != [b""] else [f"[{name}]"]
        found.append({"pid": pid, "ppid": parent, "user": user, "state": state, "argv": shown})
    return found


def unlinked_files() -> list[Message]:
    """Tell which files of the overlays are open though they have no name any more: path, pid, name.

    At most 200; without a path, the open files of a process could not be looked at. The mount id of
    an open file says which file system it is of: memory files and pipes are of none that is
    mounted, and what lies on a tmpfs or a mount is no part of the rw layer.
    """
    overlays = _overlay_mounts()
    found: list[Message] = []
    for pid in sorted(_pids()):
        if pid == 1 or len(found) >= LISTED:
            continue
        try:
            paths = {_unlinked(f"{pid}/fd/{fd}", overlays) for fd in os.listdir(f"/proc/{pid}/fd")}
        except PermissionError:
            paths = {"?"}
        except OSError:
            continue  # it is gone
        name = _stat_fields(pid)[2]
        found += [{"path": path, "pid": pid, "name": name} for path in sorted(paths - {""})]
    return found[:LISTED]


def _unlinked(fd: str, overlays: set[bytes]) -> str:
    """Return the former path of an unlinked file of an overlay, "" for any other."""
    try:
        if os.stat(f"/proc/{fd}").st_nlink:
            return ""
        _, _, rest = _read(f"/proc/{fd.replace('fd', 'fdinfo')}").partition(b"mnt_id:")
        if rest.split()[0] not in overlays:
            return ""
        return os.readlink(f"/proc/{fd}").removesuffix(" (deleted)")
    except OSError:
        return ""  # closed meanwhile


def _overlay_mounts() -> set[bytes]:
    """Return the ids of the mounts that are overlays; /proc/<pid>/mountinfo in proc(5)."""
    with open("/proc/self/mountinfo", "rb") as stream:
        return {line.split()[0] for line in stream if b" - overlay " in line}


def _stat_fields(pid: int | str) -> tuple[str, int, str]:
    """Return state, parent and name from /proc/<pid>/stat; ("", 0, "") when it is gone."""
    try:
        text = _read(f"/proc/{pid}/stat")
    except OSError:
        return "", 0, ""
    name, _, rest = text.partition(b"(")[2].rpartition(b") ")
    fields = rest.split()
    return fields[0].decode(), int(fields[1]), os.fsdecode(name)


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 65536)
    finally:
        os.close(fd)
