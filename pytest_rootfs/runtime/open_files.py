"""What the processes of a container have open, as its init sees it in /proc; proc(5).

Loaded before the pivot: imports nothing later. Everything is bounded, as a container may have any
number of it.
"""

from __future__ import annotations

import os
import sys

from pytest_rootfs.kernel.proc_files import unescaped
from pytest_rootfs.kernel.sockets import AF_INET, AF_INET6, inet_ntop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_rootfs.runtime.protocol import Message

FILES_LISTED = 100
TARGET_BYTES = 512
TABLE_BYTES = 4 << 20
MOUNTS_LISTED = 200
CHUNK_BYTES = 1 << 16

_STATES = {"01": "established", "02": "connecting", "08": "half closed", "0A": "listening"}
"""Of include/net/tcp_states.h, those that say something at a failure."""

Sockets = dict[str, str]  # by inode


def describe(pid: int, sockets: Sockets) -> tuple[list[Message], int]:
    """Return what a process has open (fd, target), and how many more there are.

    A target is a path, "pipe:[…]", or of a socket what `sockets` says. Raises OSError.
    """
    folder = f"/proc/{pid}/fd"
    numbers = sorted(int(name) for name in os.listdir(folder))
    found: list[Message] = []
    for number in numbers[:FILES_LISTED]:
        try:
            target = os.readlink(f"{folder}/{number}")
        except OSError:
            continue  # closed meanwhile
        if target.startswith("socket:["):
            target = sockets.get(target[8:-1], target)
        found.append({"fd": number, "target": target[:TARGET_BYTES]})
    return found, max(0, len(numbers) - FILES_LISTED)


def sockets() -> Sockets:
    """Return the sockets of the container's network by inode: "tcp 127.0.0.1:80 listening"."""
    found: Sockets = {}
    for name in ("tcp", "tcp6", "udp", "udp6"):
        for row in _rows(f"/proc/net/{name}"):
            if len(row) > 9:
                found[row[9]] = _inet(name, row)
    for row in _rows("/proc/net/unix"):
        if len(row) > 6:
            found[row[6]] = " ".join(("unix", *row[7:])) + (" listening" if row[5] == "01" else "")
    return found


def mounts() -> list[Message]:
    """Return the container's mounts in their order: target, type, source, options."""
    found: list[Message] = []
    for row in _rows("/proc/self/mounts", skipped=0)[:MOUNTS_LISTED]:
        source, target, kind, options = (unescaped(text)[:TARGET_BYTES] for text in row[:4])
        found.append({"target": target, "type": kind, "source": source, "options": options})
    return found


def _inet(name: str, row: list[str]) -> str:
    """Describe a row of /proc/net/tcp and its like (proc_net_tcp.rst)."""
    words = [name.rstrip("6"), _address(row[1])]
    if not row[2].endswith(":0000"):
        words.append(f"to {_address(row[2])}")
    if name.startswith("tcp") and row[3] in _STATES:
        words.append(_STATES[row[3]])
    return " ".join(words)


def _address(text: str) -> str:
    """Return "127.0.0.1:80" for what the kernel writes: words in its byte order, then the port."""
    number, _, port = text.partition(":")
    words = [bytes.fromhex(number[start : start + 8]) for start in range(0, len(number), 8)]
    raw = b"".join(int.from_bytes(word, "big").to_bytes(4, sys.byteorder) for word in words)
    if len(raw) == 4:
        return f"{inet_ntop(AF_INET, raw)}:{int(port, 16)}"
    return f"[{inet_ntop(AF_INET6, raw)}]:{int(port, 16)}"


def _rows(path: str, skipped: int = 1) -> list[list[str]]:
    """Return the words of each line of a table, up to a bound; none where there is no table."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []  # a kernel without IPv6
    content = b""
    try:
        while len(content) < TABLE_BYTES and (chunk := os.read(fd, CHUNK_BYTES)):
            content += chunk
    finally:
        os.close(fd)
    lines = [line for line in content.split(b"\n")[skipped:] if line]
    return [[os.fsdecode(word) for word in line.split()] for line in lines]
