"""Capabilities by name, and what a container's commands may keep; capabilities(7)."""

from __future__ import annotations

NAMES = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
]
"""In the order of their numbers, linux/capability.h."""

DEFAULT = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
]
"""What the root user of a container keeps: podman's list, and NET_RAW for its own network."""


def mask(names: list[str]) -> int:
    """Return the bit mask of capabilities; raises `ValueError` for an unknown name."""
    return sum(1 << NAMES.index(name) for name in set(names))


def effective() -> set[str]:
    """Return the names of what this process may use now; proc_pid_status(5), CapEff."""
    with open("/proc/self/status", encoding="utf-8", errors="replace") as lines:
        held = next(int(line.split()[1], 16) for line in lines if line.startswith("CapEff:"))
    return {name for number, name in enumerate(NAMES) if held >> number & 1}
