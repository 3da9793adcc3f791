"""Write, verify and race for blobs."""

from __future__ import annotations

import hashlib
import os
import stat
import threading
from pathlib import Path

import pytest

from pytest_rootfs.errors import LayerCorrupt
from pytest_rootfs.store.store import Store

HELLO = "sha256:" + hashlib.sha256(b"hello").hexdigest()


def test_blob_is_named_by_its_digest(store: Store) -> None:
    descriptor = store.blobs.put(b"hello", "text/plain")

    assert (descriptor.digest, descriptor.size) == (HELLO, 5)
    assert store.blobs.has(HELLO)
    assert store.blobs.read_bytes(HELLO) == b"hello"
    assert store.blobs.size(HELLO) == 5
    assert stat.S_IMODE(store.blobs.path(HELLO).stat().st_mode) == 0o444


def test_blob_is_written_in_pieces(store: Store) -> None:
    with store.blobs.new() as writer:
        writer.write(b"hel")
        writer.write(memoryview(b"lo"))
        descriptor = writer.commit("text/plain")

    assert descriptor.digest == HELLO
    assert list((store.root / "tmp").iterdir()) == []


def test_aborted_blob_leaves_nothing(store: Store) -> None:
    with store.blobs.new() as writer:
        writer.write(b"hello")

    assert not store.blobs.has(HELLO)
    assert list((store.root / "tmp").iterdir()) == []


def test_blob_of_a_job_is_adopted(store: Store) -> None:
    with store.blobs.new() as writer:
        os.write(writer.fd, b"hello")
        descriptor = writer.adopt(digest=HELLO, size=5, media_type="text/plain")

    assert store.blobs.read_bytes(descriptor.digest) == b"hello"


def test_blob_of_wrong_size_is_not_adopted(store: Store) -> None:
    with store.blobs.new() as writer:
        os.write(writer.fd, b"hello")
        with pytest.raises(LayerCorrupt, match="5 bytes where 6"):
            writer.adopt(digest=HELLO, size=6, media_type="text/plain")

    assert not store.blobs.has(HELLO)


def test_existing_blob_is_never_replaced(store: Store) -> None:
    store.blobs.put(b"hello", "text/plain")
    inode = store.blobs.path(HELLO).stat().st_ino

    store.blobs.put(b"hello", "text/plain")

    assert store.blobs.path(HELLO).stat().st_ino == inode


def test_damaged_blob_is_noticed(store: Store) -> None:
    store.blobs.put(b"hello", "text/plain")
    path = store.blobs.path(HELLO)
    os.chmod(path, 0o644)
    path.write_bytes(b"hullo")

    with pytest.raises(LayerCorrupt, match="is damaged"):
        store.blobs.read_bytes(HELLO)


def test_missing_blob_is_told(store: Store) -> None:
    with pytest.raises(LayerCorrupt, match="missing from the store"):
        store.blobs.open(HELLO)


def test_symlink_is_no_blob(store: Store, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"hello")
    store.blobs.path(HELLO).symlink_to(tmp_path / "secret")

    with pytest.raises(OSError, match="symbolic links"):
        store.blobs.open(HELLO)


def test_many_threads_agree(store: Store) -> None:
    threads = [
        threading.Thread(target=store.blobs.put, args=(b"hello", "text/plain")) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert store.blobs.read_bytes(HELLO) == b"hello"
    assert list((store.root / "tmp").iterdir()) == []


def test_blob_torn_by_a_crash_is_healed(store: Store) -> None:
    store.blobs.put(b"hello", "text/plain", durable=False)
    path = store.blobs.path(HELLO)
    os.chmod(path, 0o644)
    os.truncate(path, 0)

    store.blobs.put(b"hello", "text/plain")

    assert store.blobs.read_bytes(HELLO) == b"hello"
