"""Lines about files: overlays, the rw layer, temporary files, the store."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from pytest_rootfs.cli.doctor.checks import Check, Seen, not_tried
from pytest_rootfs.errors import RootfsError
from pytest_rootfs.runtime import host_reasons
from pytest_rootfs.settings import shown_size

LITTLE_ROOM_BYTES = 64 << 20
STORE_ROOM_BYTES = 1 << 30


def overlay(seen: Seen) -> Check:
    """Tell whether layers can be stacked."""
    if "overlay" not in seen.trials:
        return not_tried("overlay")
    refused = seen.trials["overlay"]
    if refused is None:
        return Check(name="overlay", state="ok", found="can be mounted in a user namespace")
    gap = host_reasons.explain(refused.error, seen.around) or host_reasons.absent_overlay()
    return Check(
        name="overlay",
        state="missing",
        found=f"{gap.reason}: {refused.text}",
        consequence="layers cannot be stacked",
        repair=gap.repair,
    )


def overlay_layers(seen: Seen) -> Check:
    """Tell how layers reach an overlay: by descriptor, and from detached trees, if it is new."""
    name = "overlay layers"
    if seen.trials.get("overlay", True) is not None:
        return not_tried(name)
    if seen.trials.get("lowerdir+", True) is not None:
        return Check(
            name=name,
            state="degraded",
            found="the kernel takes layers only as one text of a page (lowerdir+ is Linux 6.5)",
            consequence="an image may have some 200 layers, and starting is slower",
            repair="use a kernel of 6.5 or newer",
        )
    if seen.trials.get("detached overlay", True) is not None:
        return Check(
            name=name,
            state="degraded",
            found="the kernel takes no detached tree as a layer (Linux 6.15 does)",
            consequence="trees are attached for a moment first, and starting is slower",
            repair="use a kernel of 6.15 or newer",
        )
    return Check(name=name, state="ok", found="each by its descriptor, from detached trees")


def rw_layer(seen: Seen) -> Check:
    """Tell where what a container writes is kept."""
    if "overlay on tmpfs" not in seen.trials:
        return not_tried("rw layer")
    refused = seen.trials["overlay on tmpfs"]
    if refused is None:
        return Check(name="rw layer", state="ok", found="in memory (tmpfs), bounded by disk=")
    return Check(
        name="rw layer",
        state="degraded",
        found=f"tmpfs cannot hold it: {refused.text}",
        consequence="it is written to the store's disk instead: slower, and disk= is refused",
        repair=host_reasons.rw_on_disk(seen.around).repair,
    )


def temporary_files() -> Check:
    """Tell whether the folder of pytest's `tmp_path` serves as a source of mounts."""
    name, repair = "temporary files", "TMPDIR=/var/tmp pytest …"
    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError as error:
        return Check(
            name=name,
            state="degraded",
            found=f"no folder can be written: {error.strerror}",
            consequence="pytest's tmp_path fails, and every test that uses it",
            repair="sudo mount -o remount,rw /tmp, or TMPDIR=… with a folder of yours",
        )
    room = os.statvfs(folder)
    free_bytes = room.f_bavail * room.f_frsize
    found = f"{folder} on {_filesystem_of(Path(folder))}, {shown_size(free_bytes)} free"
    if room.f_flag & os.ST_NOEXEC:
        return Check(
            name=name,
            state="degraded",
            found=f"{found}, mounted noexec",
            consequence="a program that a test builds in tmp_path runs neither here nor, mounted, "
            "in a container",
            repair=repair,
        )
    if free_bytes < LITTLE_ROOM_BYTES:
        return Check(
            name=name,
            state="degraded",
            found=found,
            consequence="tests that write into tmp_path may find no room; containers do",
            repair=repair,
        )
    return Check(name=name, state="ok", found=found)


def store(root: Path) -> Check:
    """Open the store, and tell where it is and how much room it has."""
    from pytest_rootfs.store.store import Store  # noqa: PLC0415  for this verb only

    try:
        Store.open(root).close()
    except RootfsError as error:
        return Check(
            name="store",
            state="missing",
            found=one_line(error),
            consequence="images have no place, and no container starts",
            repair=error.hint,
        )
    free_bytes = shutil.disk_usage(root).free
    found = f"{root} on {_filesystem_of(root)}, {shown_size(free_bytes)} free"
    if free_bytes > STORE_ROOM_BYTES:
        return Check(name="store", state="ok", found=found)
    return Check(
        name="store",
        state="degraded",
        found=found,
        consequence="images may not fit",
        repair="pytest-rootfs gc, or --store on another disk",
    )


def one_line(error: RootfsError) -> str:
    """Return what an error says, with the last line of its detail."""
    return "; ".join(part.strip() for part in (error.what, *error.detail.splitlines()[-1:]) if part)


def _filesystem_of(path: Path) -> str:
    """Return the type of the file system that holds a path; proc_pid_mountinfo(5)."""
    device = os.stat(path).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    kind = "unknown"
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[2] == wanted:
            kind = after.split()[0]
    return kind
