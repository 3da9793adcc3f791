"""From a checked spec to a plan: flat lists of steps, as data.

A plan says everything that the spawner and the init will do; they only carry it out. It can be
printed (`pytest-rootfs run --explain`) and compared, and needs no privilege to be made.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_rootfs.kernel import capabilities, syscalls
from pytest_rootfs.runtime.ids import Ids
from pytest_rootfs.runtime.root_trees import HOST
from pytest_rootfs.runtime.rw_folders import files_of
from pytest_rootfs.runtime.spec import SHM_BYTES, ContainerOptions, Limits

DEVICES = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
}
DEV_LINKS = {
    "dev/fd": "/proc/self/fd",
    "dev/stdin": "/proc/self/fd/0",
    "dev/stdout": "/proc/self/fd/1",
    "dev/stderr": "/proc/self/fd/2",
    "dev/ptmx": "pts/ptmx",
}
MASKED_FILES = ("proc/kcore", "proc/keys", "proc/latency_stats", "proc/timer_list")
MASKED_DIRS = ("proc/acpi", "proc/asound", "proc/scsi", "sys/firmware")
READONLY = ("proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger")
INIT_FILES = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf")
TTY_GID = 5
"""Whom terminals belong to; without that id, to who opens them."""

SHM_OPTIONS = f"mode=1777,size={SHM_BYTES},nr_inodes={files_of(SHM_BYTES)}"

Step = tuple[Any, ...]  # Any: JSON values of many types
"""A name and its arguments; JSON values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A plan and its name: containers of one spec share it."""

    key: str
    content: Mapping[str, Any]  # Any: JSON
    """JSON; see `make_plan` for its keys."""

    @property
    def hidden(self) -> list[str]:
        """Paths that are never changes of the container: the init layer's and mount points."""
        targets = self.content["init_layer"]["targets"]
        return [*INIT_FILES, "/dev", "/proc", "/sys", *sorted(targets)]

    def describe(self) -> list[str]:
        """Write the plan for a person, a step a line."""
        content = self.content
        lines = [
            f"nursery: clone3 {content['namespaces']:#x}",
            f"nursery: uid_map {content['uid_map']} gid_map {content['gid_map']}",
            *map(_described, content["early"]),
            f"spawner: tmpfs for the rw layer {content['rw']}",
            f"spawner: init layer {content['init_layer']}",
            f"spawner: overlay of {', '.join(content['layers'])}",
            f"spawner: cgroup limits {content['limits']}",
        ]
        return [*lines, *map(_described, [*content["init"], *content["late"]])]


def make_plan(
    *,
    layers: Sequence[str],
    is_singular: bool,
    has_host_tree: bool,
    options: ContainerOptions,
    limits: Limits,
    hostname: str,
    workdir: str,
    ids: Ids,
    mount_kinds: Sequence[str],
    resolv_conf: str,
) -> Plan:
    """Return the plan of a container.

    `layers` topmost first; `is_singular` when hardly anybody will ask for this plan again, so that
    none is made ahead; `limits` are those that will be enforced; `mount_kinds` says "dir" or
    "file" for each of the mounts, whose trees travel as descriptors in the same order; `workdir` is
    made in the init layer if the image has none.
    """
    inner_uids = [[inside, inside, count] for inside, _, count in ids.uid_map]
    inner_gids = [[inside, inside, count] for inside, _, count in ids.gid_map]
    has_host_view = HOST in layers and not has_host_tree
    content: dict[str, Any] = {  # Any: JSON
        "layers": list(layers),
        "is_singular": is_singular,
        "wants_trees": bool(mount_kinds),
        "host_tree": len(mount_kinds) if has_host_tree else -1,
        "limits": {"memory": limits.memory, "cpus": limits.cpus, "pids": limits.pids},
        "rw": {"mode": "755", **({} if limits.disk is None else _bounds(limits.disk))},
        "init_layer": {
            "workdir": workdir,
            **_init_layer(options, hostname, mount_kinds, resolv_conf),
        },
        "namespaces": _namespaces(options),
        "uid_map": inner_uids,
        "gid_map": inner_gids,
        "early": _early_steps(options),
        "init": _init_steps(
            hostname, ids, options, _mount_steps(options, mount_kinds), has_host_view=has_host_view
        ),
        "late": [("drop_capabilities", capabilities.mask(_kept_capabilities(options)))],
    }
    content["init_layer"]["key"] = _digest([content["init_layer"], content["layers"]])
    # what is mounted comes with each call: containers that differ in that alone share a name, so
    # that one with the folder of each test can be made ahead
    nameable = [step[:-1] if step[0] == "bind" else step for step in content["init"]]
    return Plan(key=_digest({**content, "init": nameable}), content=content)


def _described(step: Sequence[Any]) -> str:  # Any: as in Step
    name, *arguments = step
    return " ".join(["init:", name, *map(repr, arguments)])


def _bounds(size_bytes: int) -> dict[str, str]:
    return {"size": str(size_bytes), "nr_inodes": str(files_of(size_bytes))}


def _kept_capabilities(options: ContainerOptions) -> list[str]:
    return list(capabilities.DEFAULT if options.capabilities is None else options.capabilities)


def _namespaces(options: ContainerOptions) -> int:
    flags = (
        syscalls.CLONE_NEWUSER
        | syscalls.CLONE_NEWNS
        | syscalls.CLONE_NEWPID
        | syscalls.CLONE_NEWIPC
        | syscalls.CLONE_NEWUTS
        | syscalls.CLONE_NEWCGROUP
    )
    return flags if options.network == "host" else flags | syscalls.CLONE_NEWNET


def _init_layer(
    options: ContainerOptions,
    hostname: str,
    mount_kinds: Sequence[str],
    resolv_conf: str,
) -> dict[str, Any]:  # Any: JSON
    targets = {tmpfs.target: "tmpfs" for tmpfs in options.tmpfs or ()}
    for mount, kind in zip(options.mounts or (), mount_kinds, strict=True):
        targets[mount.target] = kind
    return {
        "dirs": ["proc", "sys", "dev", "dev/pts", "dev/shm", "dev/mqueue", "etc"],
        "files": {
            "etc/hosts": (
                f"127.0.0.1\tlocalhost {hostname}\n"
                f"::1\tlocalhost ip6-localhost ip6-loopback {hostname}\n"
            ),
            "etc/hostname": f"{hostname}\n",
            "etc/resolv.conf": resolv_conf,
            **{f"dev/{name}": "" for name in DEVICES},
        },
        "symlinks": DEV_LINKS,
        "targets": targets,
    }


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def _mount_steps(options: ContainerOptions, mount_kinds: Sequence[str]) -> list[Step]:
    """Return what people want mounted, outer targets before those that lie in them.

    Inside of a tmpfs, which is empty, the mount point is made; a folder of the host is not touched.
    """
    wanted: list[tuple[str, str, Step]] = [
        (item.target, "tmpfs", ("tmpfs", item.target, _bounds(item.size_bytes)))
        for item in options.tmpfs or ()
    ]
    mounts = zip(options.mounts or (), mount_kinds, strict=True)
    for index, (mount, kind) in enumerate(mounts):
        wanted.append((mount.target, kind, ("bind", index, mount.target, str(mount.source))))
    wanted.sort(key=lambda item: item[0].count("/"))
    steps: list[Step] = []
    for end, (target, kind, step) in enumerate(wanted):
        outer = [kind for above, kind, _ in wanted[:end] if target.startswith(f"{above}/")]
        if outer and outer[-1] == "tmpfs":
            steps.append(("make_point", target, kind))
        steps.append(step)
    return steps


def _early_steps(options: ContainerOptions) -> list[Step]:
    """Return what an init can do before it is told which container to be."""
    has_own_network = options.network != "host"
    return [
        *([("raise_loopback",)] if has_own_network else []),
        ("make_slave",),
        ("become_root",),
        ("mount", "proc", "proc", ""),
        ("mount", "sysfs", "sys", "") if has_own_network else ("bind_host_sys",),
        ("forbid_user_namespaces",),
        *(("mask_file", path) for path in MASKED_FILES if os.path.exists(f"/{path}")),
        *(("mask_dir", path) for path in MASKED_DIRS if os.path.isdir(f"/{path}")),
        *(("make_readonly", path) for path in READONLY if os.path.exists(f"/{path}")),
        ("hold_staged",),
    ]


def _init_steps(
    hostname: str,
    ids: Ids,
    options: ContainerOptions,
    mount_steps: Sequence[Step],
    *,
    has_host_view: bool,
) -> list[Step]:
    pts_gid = f",gid={TTY_GID}" if ids.count > TTY_GID else ""
    return [
        ("take_name",),
        ("attach_root", bool(options.readonly)),
        *([("attach_host",)] if has_host_view else []),
        ("attach_staged",),
        *(("bind_device", name, *numbers) for name, numbers in DEVICES.items()),
        ("mount", "devpts", "dev/pts", f"newinstance,ptmxmode=0666,mode=0620{pts_gid}"),
        ("mount", "tmpfs", "dev/shm", SHM_OPTIONS),
        ("mount", "mqueue", "dev/mqueue", ""),
        ("join_groups",),
        *([("await_trees",)] if any(step[0] == "bind" for step in mount_steps) else []),
        *mount_steps,
        ("pivot",),
        ("set_hostname", hostname),
        ("protect",),
    ]
