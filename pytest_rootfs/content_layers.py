"""Write layers of files that are at hand, and know what the layers of an image hold.

Builds ask for the second often, so the rows of each layer are remembered beside it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

from pytest_rootfs.image.trees import TreeEntry, entry_pieces
from pytest_rootfs.image.view import ImageView, Row, row_of
from pytest_rootfs.settings import SOURCE_DATE_EPOCH
from pytest_rootfs.store.blobs import Descriptor
from pytest_rootfs.store.caches import key_of
from pytest_rootfs.store.entries import ROOT, Entry
from pytest_rootfs.store.media_types import LAYER_TYPE
from pytest_rootfs.store.store import Store
from pytest_rootfs.store.tar_reader import read_entries
from pytest_rootfs.store.tar_writer import TarWriter


class ContentLayers:
    """The layers of one store, as to the files in them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def write(self, entries: Sequence[TreeEntry]) -> Descriptor | None:
        """Write a layer; `None` when there is nothing to write. Raises as `entry_pieces` does."""
        if not entries:
            return None
        with self._store.blobs.new() as blob:
            tar = TarWriter(blob.write)
            for entry in entries:
                is_file = entry.kind == "file"
                tar.add(_tar_entry(entry), entry_pieces(entry) if is_file else None)
            tar.close()
            layer = blob.commit(LAYER_TYPE)
        self._remember(layer.digest, [row_of(entry) for entry in entries])
        return layer

    def view(self, diff_ids: Sequence[str], *, is_host: bool) -> ImageView:
        """Return what every path is in an image of these layers, bottom first."""
        view = ImageView(is_host=is_host)
        for diff_id in diff_ids:
            view.apply(self._rows(diff_id))
        return view

    def _rows(self, diff_id: str) -> list[Row]:
        """Return what a layer holds; remembered, or else read from its archive."""
        remembered = self._store.cache.get(key_of("rows", diff_id))
        if remembered is not None:
            return [tuple(row) for row in json.loads(str(remembered["rows"]))]
        with self._store.blobs.verified(diff_id) as file:
            rows = [_row_of_archive(entry) for entry, _ in read_entries(file)]
        self._remember(diff_id, rows)
        return rows

    def _remember(self, diff_id: str, rows: list[Row]) -> None:
        # As ASCII: file names that are not UTF-8 are no valid text in a JSON file.
        self._store.cache.put(key_of("rows", diff_id), {"rows": json.dumps(rows)})


def _tar_entry(entry: TreeEntry) -> Entry:
    return Entry(
        name=entry.path or ROOT,
        kind=entry.kind,
        mode=entry.mode,
        uid=entry.owner[0],
        gid=entry.owner[1],
        size=entry.size,
        mtime=SOURCE_DATE_EPOCH,
        linkname=entry.linkname,
    )


def _row_of_archive(entry: Entry) -> Row:
    name = b"" if entry.name == ROOT else entry.name
    owner = (entry.uid, entry.gid)
    return (os.fsdecode(name), entry.kind, entry.mode, *owner, os.fsdecode(entry.linkname))
