"""Write and digest a stream of bytes, beside the thread that makes it once there is much of it.

Reading files and making headers then takes one core, SHA-256 and writing the other: both release
the interpreter lock. Memory is bounded by a few blocks.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from typing import BinaryIO

BLOCK_BYTES = 1 << 20
WAITING_BLOCKS = 4


class Sink:
    """Takes bytes; `finish` returns their digest, `close` ends it in any case. Idempotent."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._digest = hashlib.sha256()
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._blocks: queue.Queue[bytes | None] = queue.Queue(WAITING_BLOCKS)
        self._worker: threading.Thread | None = None
        self._error: Exception | None = None
        self.size = 0

    def write(self, data: bytes) -> None:
        """Append bytes; raises OSError, perhaps for earlier ones."""
        self._pending.append(data)
        self._pending_bytes += len(data)
        self.size += len(data)
        if self._pending_bytes >= BLOCK_BYTES:
            self._hand_over()

    def finish(self) -> str:
        """Write what is left; return the SHA-256 of all, in hexadecimal. Raises OSError."""
        self.close()
        if self._error is not None:
            raise self._error
        self._put(b"".join(self._pending))
        self._pending.clear()
        self._out.flush()
        return self._digest.hexdigest()

    def close(self) -> None:
        """End the thread, if there is one."""
        if self._worker is not None:
            self._blocks.put(None)
            self._worker.join()
            self._worker = None

    def _hand_over(self) -> None:
        if self._error is not None:
            raise self._error
        if self._worker is None:
            self._worker = threading.Thread(target=self._work, daemon=True)
            self._worker.start()
        self._blocks.put(b"".join(self._pending))
        self._pending.clear()
        self._pending_bytes = 0

    def _work(self) -> None:
        while (block := self._blocks.get()) is not None:
            if self._error is None:
                try:
                    self._put(block)
                except Exception as error:  # noqa: BLE001  raised by the next write
                    self._error = error

    def _put(self, block: bytes) -> None:
        self._digest.update(block)
        self._out.write(block)
