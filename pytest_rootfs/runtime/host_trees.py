"""Files of the host that a container shows: opened as trees for its start, or refused."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

from pytest_rootfs.errors import ContainerError, HostUnsupported
from pytest_rootfs.kernel.mounts import MAPPING
from pytest_rootfs.runtime import host_reasons, protocol
from pytest_rootfs.runtime.client import StepFailed
from pytest_rootfs.runtime.plan import Plan
from pytest_rootfs.runtime.session import Session
from pytest_rootfs.runtime.spec import ContainerOptions, Mount
from pytest_rootfs.runtime.surroundings import Surroundings


def open_trees(session: Session, plan: Plan, options: ContainerOptions) -> list[int]:
    """Return copies of the host's trees that a container shows, for one start of it."""
    trees: list[int] = []
    try:
        trees.extend(_tree_of(session, mount) for mount in options.mounts or ())
        if plan.content["host_tree"] >= 0:
            trees.append(_whole_host(session))
    except BaseException:
        protocol.close_all(trees)
        raise
    return trees


def kind_of(source: Path) -> str:
    """Return "dir" or "file" for what is to be mounted."""
    try:
        return "dir" if stat.S_ISDIR(source.stat().st_mode) else "file"
    except OSError as error:
        raise ContainerError(
            f"cannot mount {source}: {error.strerror}", hint="create it, or correct mounts=…"
        ) from error


def _whole_host(session: Session) -> int:
    around = Surroundings.read()
    gap = host_reasons.unmappable_host(around)
    if around.kernel < host_reasons.MAPPED_LAYERS_SINCE:
        raise HostUnsupported(gap.reason, hint=gap.repair)
    try:
        return session.tree("/", readonly=True, recursive=False)
    except StepFailed as error:
        raise HostUnsupported(gap.reason, detail=str(error), hint=gap.repair) from error


def _tree_of(session: Session, mount: Mount) -> int:
    try:
        return session.tree(str(mount.source), readonly=mount.is_readonly)
    except StepFailed as error:
        if error.errno == errno.ENOSYS and (refused := host_reasons.unsupported(error)):
            raise refused from error
        if f"{error.filename}".startswith(MAPPING):
            raise _unmappable(mount, error.filename.removeprefix(f"{MAPPING} ")) from error
        raise ContainerError(
            f"cannot mount {mount.source}: {error.strerror}",
            detail=str(error),
            hint="create it, or correct mounts=…",
        ) from error


def _unmappable(mount: Mount, culprit: str) -> ContainerError:
    where = "its file system" if Path(culprit) == mount.source else f"{culprit} below it"
    return ContainerError(
        f"cannot mount {mount.source}: {where} takes no id map, which root's containers need",
        hint="copy what is needed with container.copy_in, or mount folders without such a part",
    )
