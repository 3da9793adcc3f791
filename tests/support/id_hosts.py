"""Hosts that give other subordinate ids than this machine: a folder in place of /etc."""

from __future__ import annotations

from pathlib import Path

from otherwise import NOBODY

from pytest_rootfs.runtime import ids
from pytest_rootfs.runtime.ids import Ids


class Host:
    """A folder in place of /etc, for a user that the machine really has."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, text: str) -> None:
        """Write one file."""
        (self.folder / name).write_text(text)

    def give(self, text: str) -> None:
        """Write the same ranges for users and groups."""
        for name in ("subuid", "subgid"):
            self.write(name, text)

    def ids(self, uid: int = NOBODY) -> Ids:
        """Choose the maps on this host."""
        return ids.find_ids(uid=uid, gid=uid, subid_folder=str(self.folder))

    def files(self) -> dict[str, Path]:
        """Return what lies over the files of the machine."""
        return {f"/etc/{path.name}": path for path in self.folder.iterdir()}
