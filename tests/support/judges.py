"""Let umoci and podman unpack an image of ours, each in its own way."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from places import temporary_folder
from snapshots import Seen, Snapshot, snapshot

from pytest_rootfs.store import oci
from pytest_rootfs.store.store import Store

NAME = "judged:1"


def umoci_tree(tmp_path: Path, layers: Sequence[bytes]) -> Snapshot:
    """Return what `umoci raw unpack` makes of these layers, bottom first."""
    with temporary_folder(tmp_path) as folder:
        store = _stored(folder, layers)
        rootless = [] if os.getuid() == 0 else ["--rootless"]
        image = f"{store}:{NAME}"
        _run("umoci", "raw", "unpack", *rootless, "--image", image, f"{folder}/tree")
        return {name: _without_owner_note(seen) for name, seen in snapshot(folder / "tree").items()}


def _without_owner_note(seen: Seen) -> Seen:
    """Drop the attribute in which a rootless umoci writes the owner that it could not set."""
    kept = tuple(item for item in seen.xattrs if item[0] != b"user.rootlesscontainers")
    return replace(seen, xattrs=kept)


def podman_tree(layers: Sequence[bytes], *, driver: str) -> Snapshot:
    """Return what podman mounts of these layers, bottom first; only for root."""
    with private_podman(driver) as podman:
        # a part of the path becomes the image's name, which must be in lower case
        store = _stored(Path(podman[1].partition("=")[2]).parent, layers)
        identity = _run(*podman, "pull", "-q", f"oci:{store}:{NAME}").strip()
        place = _run(*podman, "image", "mount", identity).strip()
        try:
            return snapshot(Path(place))
        finally:
            _run(*podman, "image", "umount", identity)
            _run(*podman, "rmi", "-a", "-f")


@contextmanager
def private_podman(driver: str = "vfs") -> Iterator[list[str]]:
    """Give a podman that shares nothing with the machine's; its paths must be short."""
    folder = f"/tmp/p{secrets.token_hex(4)}"
    os.mkdir(folder, 0o700)
    try:
        yield [
            "podman",
            f"--root={folder}/root",
            f"--runroot={folder}/run",
            f"--tmpdir={folder}/tmp",
            f"--storage-driver={driver}",
            "--cgroup-manager=cgroupfs",
            "--events-backend=none",
        ]
    finally:  # with the driver `overlay`, podman leaves its folder mounted on itself
        subprocess.run(["umount", f"{folder}/root/{driver}"], check=False, capture_output=True)
        shutil.rmtree(folder)


def _stored(folder: Path, layers: Sequence[bytes]) -> Path:
    """Return an OCI layout that holds an image of these layers."""
    with Store.open(folder / "store") as store:
        blobs = [store.blobs.put(each, oci.LAYER_TYPE, durable=False) for each in layers]
        manifest = oci.write_image(store, layers=blobs, config={"Cmd": ["/x"]})
        store.refs.set(NAME, manifest.digest)
        return store.root


def _run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
