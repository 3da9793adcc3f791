"""Remember what a build step produced, by the key of everything that it depends on."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any  # decoded JSON only

from pytest_rootfs.store.digests import named_in
from pytest_rootfs.store.documents import canonical_json, write_atomically
from pytest_rootfs.store.locks import is_no_room

_KEY = re.compile(r"(?:sha256:)?[0-9a-f]{16,64}", re.ASCII)


def key_of(*parts: object) -> str:
    """Return the key of a step, of everything that it depends on, as JSON has it."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class StepCache:
    """Results of build steps: small JSON objects. A result may name digests that are gone."""

    def __init__(self, folder: Path, tmp: Path, *, hold: Callable[..., None]) -> None:
        self._folder = folder
        self._tmp = tmp
        self._hold = hold

    def get(self, key: str) -> dict[str, Any] | None:
        """Return a step's result, or None; every digest named in it is held from now on.

        The caller still checks that they are there (`blobs.has`, `has_layer`).
        """
        path = self._path(key)
        try:
            text = path.read_text()
            result = json.loads(text)
            os.utime(path)  # the least recently used results are collected first
        except (FileNotFoundError, ValueError):
            return None
        except OSError as error:
            if not is_no_room(error):
                raise
        if not isinstance(result, dict):
            return None
        self._hold(*sorted(named_in(text)))
        return result

    def put(self, key: str, result: dict[str, Any]) -> None:
        """Remember a result; replaces an older one."""
        path = self._path(key)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        write_atomically(path, canonical_json(result), tmp=self._tmp)

    def _path(self, key: str) -> Path:
        if _KEY.fullmatch(key) is None:
            raise ValueError(f"{key!r} is not a step key: give a sha256")
        digits = key.rpartition(":")[2]
        return self._folder / digits[:2] / f"{digits}.json"
