"""Keep digests alive while a process uses them."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import final

from pytest_rootfs.store.digests import hex_of
from pytest_rootfs.store.locks import claim_file, locked, take_if_dead


@final
class Lease:
    """A locked file of digests that no collection touches; dead when its process is."""

    def __init__(self, folder: Path, gc_lock: Path) -> None:
        self._gc_lock = gc_lock
        self._held: set[str] = set()
        self._thread_lock = threading.Lock()
        for path in folder.iterdir():  # killed processes leave theirs
            take_if_dead(path, path)
        self._path, self._fd = claim_file(folder)

    def __enter__(self) -> Lease:
        """Close on exit."""
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def hold(self, *digests: str) -> None:
        """Keep `digests`, and what manifests among them name.

        Check after it that they are there: from then on they stay. Waits for a collection's
        (short) marking phase. Idempotent; cheap when held already.
        """
        with self._thread_lock:
            fresh = [digest for digest in digests if digest not in self._held]
            if not fresh:
                return
            for digest in fresh:
                hex_of(digest)
            with locked(self._gc_lock, shared=True):
                self._write(fresh)
            self._held.update(fresh)

    def _write(self, digests: Sequence[str]) -> None:
        # The line break comes first: it ends what a full disk cut short.
        text = "".join(f"\n{digest}" for digest in digests).encode()
        if os.write(self._fd, text) < len(text):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))

    def close(self) -> None:
        """Let everything go; idempotent."""
        if self._fd >= 0:
            self._path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1
