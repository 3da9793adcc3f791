"""Build images without containers: a session whose steps leave one file, and what layers hold."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field

from pytest_rootfs.builder import BuiltImage
from pytest_rootfs.image.steps import RunStep
from pytest_rootfs.store import oci
from pytest_rootfs.store.entries import Entry
from pytest_rootfs.store.store import Store
from pytest_rootfs.store.tar_writer import TarWriter


@dataclass
class Session:
    """A session without containers: a step's layer holds one file with the step's words."""

    store: Store
    idmap: str = "test"
    unpacked: list[str] = field(default_factory=list)
    ran: list[tuple[BuiltImage, RunStep]] = field(default_factory=list)
    change_nothing: bool = False

    def unpack(self, layers: Sequence[str], *, is_host: bool) -> None:  # noqa: ARG002  as the real one
        """Record the layers."""
        self.unpacked += [diff_id for diff_id in layers if diff_id not in self.unpacked]

    def run_step(self, base: BuiltImage, step: RunStep) -> str | None:
        """Record the step, and make its layer."""
        self.ran.append((base, step))
        if self.change_nothing:
            return None
        content = repr(step.command).encode()
        with self.store.blobs.new() as blob:
            tar = TarWriter(blob.write)
            tar.add(Entry(name=b".", kind="dir", mode=0o755))
            tar.add(Entry(name=b"srv", kind="dir", mode=0o700, uid=7))
            tar.add(Entry(name=b"srv/ran", kind="file", mode=0o644, size=len(content)), [content])
            tar.close()
            return blob.commit(oci.LAYER_TYPE).digest


def members(store: Store, diff_id: str) -> dict[str, tarfile.TarInfo]:
    """Return the entries of a layer by name."""
    with tarfile.open(store.blobs.path(diff_id)) as archive:
        return {member.name: member for member in archive}


def texts(store: Store, built: BuiltImage) -> dict[str, str]:
    """Return how every file of the image begins, by name."""
    found: dict[str, str] = {}
    for diff_id in built.layers:
        with tarfile.open(store.blobs.path(diff_id)) as archive:
            for member in filter(tarfile.TarInfo.isreg, archive):
                file = archive.extractfile(member) or io.BytesIO()
                found[member.name] = file.read(100).decode(errors="replace")
    return found
