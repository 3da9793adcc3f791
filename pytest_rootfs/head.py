"""The line at the head of pytest's report: how containers run here, and what they lack.

The host is looked at, in a millisecond or two; nothing is tried, nothing started. The words are
those of errors and of `doctor`, which tries. Imported by every run that prints its head, so it
imports next to nothing.
"""

from __future__ import annotations

import os

from pytest_rootfs.kernel import cgroups_layout, cgroups_places
from pytest_rootfs.runtime.surroundings import Surroundings, foreseen, is_root_of_host
from pytest_rootfs.settings import short_digest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Any

    from pytest_rootfs.options import Settings

CACHE_KEY = "rootfs/digests"


def look(settings: Settings, digests: ImageDigests) -> str | None:
    """Return the line for this host; None where it hides what it is asked for.

    The first container says what that means.
    """
    images = settings.images
    try:
        if reason := refusal_foreseen():
            return f"rootfs: no containers, {reason}; `pytest-rootfs doctor` has the repair"
        mode, id_gap = id_mode()
        cgroup, limit_gap = limits()
        return line(
            mode=mode,
            cgroup=cgroup,
            images=images,
            digest=digests.stored(images[0], settings.store),
            id_gap=id_gap,
            limit_gap=limit_gap if settings.limits != "off" else "",
        )
    except OSError:
        return None


def refusal_foreseen() -> str:
    """Return why no container can be started here, "" if nothing that can be read says so."""
    return foreseen(Surroundings.read()).reason


def id_mode() -> tuple[str, str]:
    """Return how container ids become host ids, and which of them are missing."""
    if is_root_of_host():
        return "rootful", ""
    from pytest_rootfs.runtime.ids import find_ids  # noqa: PLC0415  half of what the head imports

    found = find_ids()
    return found.mode, found.gap.reason


def limits() -> tuple[str, str]:
    """Return the kind of the control groups, and which limits cannot be enforced, and why."""
    sockets = cgroups_places.systemd_sockets(os.environ)
    kind, controllers = cgroups_places.survey(os.environ.get(cgroups_layout.SETTING), sockets)
    absent = [name for name, is_usable in controllers.items() if not is_usable]
    if not absent:
        return kind, ""
    what = f"no limits on {', '.join(absent)}" if len(absent) < len(controllers) else "no limits"
    return kind, f"{what}: {_why_absent(absent[0])}"


def line(
    *,
    mode: str,
    cgroup: str,
    images: Sequence[str],
    digest: str | None,
    id_gap: str = "",
    limit_gap: str = "",
) -> str:
    """Return the line; a gap says what is missing, and why."""
    shown = f"{short_digest(digest)}…" if digest else "digest not known yet"
    image = f"image {images[0]} ({shown})" if len(images) == 1 else f"images {', '.join(images)}"
    ids = f"{mode} ({id_gap})" if id_gap else mode
    limits = "no cgroup" if cgroup == "none" else f"cgroup {cgroup}"
    if limit_gap:
        limits += f" ({limit_gap})"
    end = "; `pytest-rootfs doctor` has the repair" if id_gap or limit_gap else ""
    return f"rootfs: {ids}, {limits}, {image}{end}"


class ImageDigests:
    """Which digest each default image had when this project last used it, in pytest's own cache."""

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


def _why_absent(name: str) -> str:
    from pytest_rootfs.kernel import cgroups_reasons  # noqa: PLC0415  most hosts can do all

    mounts = cgroups_layout.read_mounts()
    mount = next((each for each in mounts if name in each.controllers), None) or next(
        (each for each in mounts if each.version == 2), None
    )
    if mount is None:
        reason = cgroups_reasons.of_no_mount(name)
    elif mount.is_read_only:
        reason = cgroups_reasons.of_read_only(mount)
    else:
        reason = cgroups_reasons.of_undelegated(mount.own)
    return reason.partition("; ")[0]
