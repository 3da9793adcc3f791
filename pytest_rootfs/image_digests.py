"""Which digest each default image had when this project last used it: what the head may tell.

Kept in pytest's own cache. Imported by the head of the report, so it imports next to nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

CACHE_KEY = "rootfs/digests"


class ImageDigests:
    """The digests of default images, by reference."""

    def __init__(self, config: Any) -> None:  # Any: a pytest.Config
        self._config = config
        self._used: dict[str, str] = {}

    def note(self, reference: str, digest: str) -> None:
        """Note what an image is now; `save` keeps it."""
        self._used[reference] = digest

    def stored(self, reference: str, store: Path) -> str | None:
        """Return what an image was at its last use, if the store still has that."""
        cache = self._cache
        digest = cache.get(CACHE_KEY, {}).get(reference) if cache is not None else None
        if not isinstance(digest, str):
            return None
        return digest if store.joinpath("blobs", *digest.split(":")).exists() else None

    def save(self) -> None:
        """Keep what was noted for the next session."""
        cache = self._cache
        if cache is None or not self._used:
            return
        known = cache.get(CACHE_KEY, {})
        if known != (now := {**known, **self._used}):
            cache.set(CACHE_KEY, now)

    @property
    def _cache(self) -> Any:  # Any: a pytest.Cache
        return getattr(self._config, "cache", None)  # absent with -p no:cacheprovider
