"""Find one path in a merged view of layers, resolving links inside it and nowhere else."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any  # results are JSON

from pytest_rootfs.errors import ArchiveRejected
from pytest_rootfs.store.entries import ROOT
from pytest_rootfs.store.file_info import FileInfo
from pytest_rootfs.store.layer_paths import Route, View, joined


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a path leads to: a name without links, valid as long as the view is open."""

    view: View
    name: bytes
    info: FileInfo

    def as_json(self) -> dict[str, Any]:
        """Return the file's attributes and its resolved, absolute path."""
        path = "/" if self.name == ROOT else f"/{os.fsdecode(self.name)}"
        return {"path": path, **self.info.state.as_json()}

    def content(self) -> Iterator[bytes]:
        """Yield a file's bytes, or one JSON line for every name in a folder; else nothing."""
        if self.info.type == "file":
            yield from self.view.content(self.name, self.info)
        elif self.info.type == "dir":
            yield from self._listing()

    def _listing(self) -> Iterator[bytes]:
        for base in self.view.names(self.name):
            info = self.view.look(joined(self.name, base))
            if info is not None:
                line = {"name": os.fsdecode(base), **info.state.as_json()}
                yield json.dumps(line).encode() + b"\n"


def find(view: View, path: bytes) -> Found | None:
    """Return what `path` leads to, the view being its root; None if nothing is there.

    The last component is followed too, as `cat` would; a loop of links leads to nothing.
    """
    route = Route(path, entry=path)
    try:
        info = _walk(view, route)
    except ArchiveRejected:  # too many links, or a path that is too long
        return None
    return None if info is None else Found(view=view, name=route.at, info=info)


def _walk(view: View, route: Route) -> FileInfo | None:
    """Go to the end of a route; return what is there."""
    while (name := route.next_name()) is not None:
        info = view.look(name)
        if info is None:
            return None
        if info.type == "symlink":
            route.follow(info.target)
            continue
        route.at = name
        if info.type != "dir":  # below which nothing can be, not even `..`
            return info if route.next_name() is None and route.at == name else None
    return view.look(route.at)
