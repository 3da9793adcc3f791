from pytest_rootfs import errors as errors
from pytest_rootfs.changeset import Change, Changes
from pytest_rootfs.errors import (
    ArchiveRejected,
    BuildFailed,
    CommandFailed,
    CommandNotExecutable,
    CommandNotFound,
    CommandTimeout,
    ContainerDied,
    ContainerError,
    HostUnsupported,
    ImageError,
    ImageNotFound,
    LayerCorrupt,
    LimitUnavailable,
    RecipeError,
    RootfsError,
)
from pytest_rootfs.failures import Failure
from pytest_rootfs.image import Image
from pytest_rootfs.runtime.container import Container
from pytest_rootfs.runtime.endings import CompletedProcess
from pytest_rootfs.runtime.path import ContainerPath
from pytest_rootfs.runtime.process import Process
from pytest_rootfs.runtime.spec import Limits
from pytest_rootfs.runtime.stats import Stats
from pytest_rootfs.snapshots import Snapshot

__all__ = [
    "ArchiveRejected",
    "BuildFailed",
    "Change",
    "Changes",
    "CommandFailed",
    "CommandNotExecutable",
    "CommandNotFound",
    "CommandTimeout",
    "CompletedProcess",
    "Container",
    "ContainerDied",
    "ContainerError",
    "ContainerPath",
    "Failure",
    "HostUnsupported",
    "Image",
    "ImageError",
    "ImageNotFound",
    "LayerCorrupt",
    "LimitUnavailable",
    "Limits",
    "Process",
    "RecipeError",
    "RootfsError",
    "Snapshot",
    "Stats",
]
