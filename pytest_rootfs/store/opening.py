"""Create a store's folder, or check that a folder is a store of ours."""

from __future__ import annotations

import os
from pathlib import Path

from pytest_rootfs.store import probes
from pytest_rootfs.store.documents import write_atomically
from pytest_rootfs.store.locks import is_no_room

FOLDERS = ("blobs/sha256", "layers", "cache", "refs", "failures", "leases", "locks", "tmp", "trash")
LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_LAYOUT_FILE = "oci-layout"
_PROBED_FILE = ".probed"


def prepare(root: Path) -> None:
    """Make `root` a store, but for the index; idempotent, safe against others that do the same."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    _refuse_foreign(root)
    if os.stat(root).st_mode & 0o777 != 0o700:
        os.chmod(root, 0o700)
    if not (root / _LAYOUT_FILE).exists():
        write_atomically(root / _LAYOUT_FILE, LAYOUT, tmp=root)
    for folder in FOLDERS:
        (root / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
    _probe_once(root)


def is_store(root: Path) -> bool:
    """Tell whether `root` is a store still."""
    return (root / _LAYOUT_FILE).exists()


def _refuse_foreign(root: Path) -> None:
    owner = os.stat(root).st_uid
    if owner != os.geteuid():
        raise probes.StoreUnusable(
            f"the store {root} belongs to user {owner}, and this is user {os.geteuid()}",
            hint="use a store of your own with --rootfs-store=DIR",
        )
    # A store that another process is creating this moment may show only its temporary file.
    names = {name for name in os.listdir(root) if not name.startswith(".tmp-")}
    if names and _LAYOUT_FILE not in names:
        raise probes.StoreUnusable(
            f"{root} is not empty and is not a store of pytest-rootfs",
            hint="name an empty or a new folder with --rootfs-store=DIR",
        )


def _probe_once(root: Path) -> None:
    """Probe the file system, unless this kernel found this one good before."""
    found = f"{os.stat(root).st_dev} {os.uname().release}"
    marker = root / _PROBED_FILE
    if marker.exists() and marker.read_text() == found:
        return
    try:
        probes.probe(root / "tmp")
        write_atomically(marker, found.encode(), tmp=root / "tmp")
    except OSError as error:
        # What is in a full or read-only store can be used; an earlier kernel found it good.
        if not (is_no_room(error) and marker.exists()):
            raise
