"""What the terminal summary says of kept failures; and room is made for them.

Imported when the first failure is kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_rootfs.attempts import Note
    from pytest_rootfs.options import Settings


class Summary:
    """The failures of one session, of all workers of xdist, as they come in."""

    def __init__(self, settings: Settings, *, project: Path) -> None:
        self.trouble: list[str] = []
        """What else went wrong, a line each."""
        self._settings = settings
        self._project = project
        self._notes: list[Note] = []
        self._unswept: list[Note] = []
        self._swept: set[str] = set()

    def note(self, note: Note) -> None:
        """Note a kept failure; make room when enough have come in, not only at the end."""
        self._notes.append(note)
        self._unswept.append(note)
        size_bytes = sum(each["size"] for each in self._unswept)
        settings = self._settings
        if len(self._unswept) >= settings.keep_count or size_bytes > settings.keep_size_bytes:
            self._sweep()

    def finish(self) -> None:
        """Make room at the end of the session, whose own layers nobody uses any more."""
        self._sweep()
        if not self._swept:
            return
        from pytest_rootfs import keeping  # noqa: PLC0415  a failure was kept
        from pytest_rootfs.errors import RootfsError, one_line  # noqa: PLC0415  as above

        try:
            keeping.free(self._settings.store)
        except (RootfsError, OSError) as error:
            self.trouble.append(f"layers of removed failures stay: {one_line(error)}")

    def _sweep(self) -> None:
        """Make room, if this session kept any failure since it was made last."""
        if self._unswept:
            self._unswept.clear()
            self.make_room()

    def make_room(self) -> None:
        """Remove the oldest failures of the project beyond what is to be kept."""
        from pytest_rootfs import keeping  # noqa: PLC0415  a failure was kept
        from pytest_rootfs.errors import RootfsError, one_line  # noqa: PLC0415  as above

        settings = self._settings
        try:
            self._swept |= keeping.sweep(
                settings.store,
                project=self._project,
                count=settings.keep_count,
                size_bytes=settings.keep_size_bytes,
            )
        except (RootfsError, OSError) as error:
            self.trouble.append(f"older failures could not be removed: {one_line(error)}")

    def title(self) -> str:
        """Return the heading of the summary; `keep="all"` keeps what is no failure, too."""
        are_failures = all(each["outcome"] == "failed" for each in self._notes)
        return "rootfs failures" if are_failures else "rootfs kept"

    def lines(self) -> list[str]:
        """Return what the summary says: a line a failure that is still kept."""
        lines = [each["line"] for each in self._notes if each["id"] not in self._swept]
        if gone := len(self._notes) - len(lines):
            what = "failure of this session was" if gone == 1 else "failures of this session were"
            lines.append(f"{gone} older {what} removed (rootfs_keep_count, rootfs_keep_size)")
        return lines + self.trouble
