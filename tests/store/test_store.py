"""Open stores, lock, lease, stage and publish; alone and against others."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from features import needs
from namespaced import in_user_namespace

from pytest_rootfs.errors import ArchiveRejected, LayerCorrupt
from pytest_rootfs.kernel import syscalls
from pytest_rootfs.store import locks
from pytest_rootfs.store.checks import fsck
from pytest_rootfs.store.collect import gc
from pytest_rootfs.store.probes import StoreUnusable
from pytest_rootfs.store.staged import layer_rel
from pytest_rootfs.store.store import Store

DIFF_ID = "sha256:" + "1" * 64


def meta_of(store: Store, name: str) -> dict[str, Any]:
    """Return what is written down of an unpacked layer."""
    path = store.root / "layers" / "u" / name.partition(":")[2] / "meta.json"
    return dict(json.loads(path.read_bytes()))


def test_new_store_is_private_oci_layout(tmp_path: Path) -> None:
    with Store.open(tmp_path / "a" / "store") as store:
        pass

    assert stat.S_IMODE(store.root.stat().st_mode) == 0o700
    assert json.loads((store.root / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    assert json.loads((store.root / "index.json").read_text())["manifests"] == []
    assert list((store.root / "tmp").iterdir()) == []
    assert list((store.root / "leases").iterdir()) == []


def test_store_opens_again(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as first:
        digest = first.blobs.put(b"x", "text/plain").digest

    with Store.open(tmp_path / "store") as second:
        assert second.blobs.read_bytes(digest) == b"x"


def test_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()

    with pytest.raises(StoreUnusable, match="is not a store") as refused:
        Store.open(tmp_path)

    assert "--rootfs-store" in refused.value.hint
    assert os.listdir(tmp_path) == ["thesis.txt"]


@needs("root")
def test_store_of_another_user_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    os.chown(tmp_path / "store", 12345, 12345)

    with pytest.raises(StoreUnusable, match="belongs to user 12345"):
        Store.open(tmp_path / "store")


def test_file_in_place_of_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store").touch()

    with pytest.raises(StoreUnusable, match="store cannot be in") as refused:
        Store.open(tmp_path / "store")

    assert "--rootfs-store" in refused.value.hint


@needs("userns")
def test_unsuitable_file_system_is_refused(tmp_path: Path) -> None:
    def job() -> str:
        (tmp_path / "memory").mkdir()
        syscalls.mount("none", bytes(tmp_path / "memory"), "ramfs")  # it has no user.* attributes
        with pytest.raises(StoreUnusable) as refused:
            Store.open(tmp_path / "memory" / "store")
        left = os.listdir(tmp_path / "memory" / "store" / "tmp")
        return f"{refused.value.what} {left}"

    assert re.search(r"refuses extended attributes .* \[\]$", in_user_namespace(job))


@needs("userns")
def test_full_disk_is_refused_clearly(tmp_path: Path) -> None:
    def job() -> str:
        syscalls.mount("small", bytes(tmp_path), "tmpfs", 0, "size=4k,nr_inodes=5")
        with pytest.raises(StoreUnusable) as refused:
            Store.open(tmp_path / "store")
        return str(refused.value)

    assert "No space left on device" in in_user_namespace(job)


@needs("userns")
@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_store_without_room_can_be_used(tmp_path: Path, trouble: str) -> None:
    def job() -> tuple[object, ...]:
        syscalls.mount("small", bytes(tmp_path), "tmpfs", 0, "size=256k")
        with Store.open(tmp_path / "store") as store:
            digest = store.blobs.put(b"x", "text/plain").digest
            store.cache.put("0" * 64, {"layer": digest})
            store.refs.set("app", digest)
        if trouble == "full":
            with pytest.raises(OSError, match="No space"):
                (tmp_path / "filler").write_bytes(bytes(1 << 20))
        else:
            flags = syscalls.MS_REMOUNT | syscalls.MS_RDONLY
            syscalls.mount(None, bytes(tmp_path), None, flags)
        with Store.open(tmp_path / "store") as store:
            problems = [problem.what for problem in fsck(store).problems]
            found = store.refs.get("app") == digest
            return found, store.cache.get("0" * 64), store.refs.list(), problems

    found, result, refs, problems = in_user_namespace(job)

    assert (found, result, list(refs)) == (True, {"layer": refs["app"]}, ["app"])
    assert problems == [f"image 'app' cannot be used: manifest {refs['app']} is not valid JSON"]


@needs("userns")
def test_full_store_can_be_collected(tmp_path: Path) -> None:
    def job() -> object:
        syscalls.mount("small", bytes(tmp_path), "tmpfs", 0, "size=256k")
        with Store.open(tmp_path / "store") as store:
            store.blobs.put(bytes(100_000), "text/plain")
        with pytest.raises(OSError, match="No space"):
            (tmp_path / "filler").write_bytes(bytes(1 << 20))
        with Store.open(tmp_path / "store") as store:
            return gc(store).blobs

    assert in_user_namespace(job) == 1


def test_lock_names_its_holder_to_waiter(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "TELL_AFTER_S", 0.01)
    told: list[str] = []
    waits, order = threading.Event(), []

    def wait() -> None:
        def tell(sentence: str) -> None:
            told.append(sentence)
            waits.set()

        with store.lock("layer-x", tell=tell):
            order.append("waiter")

    thread = threading.Thread(target=wait)
    with store.lock("layer-x", doing="unpacks layer x"):
        thread.start()
        assert waits.wait(10)
        order.append("holder")
    thread.join()

    assert order == ["holder", "waiter"]
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    who = f"pid {os.getpid()}" + (f" ({worker})" if worker else "")
    assert told == [f"waiting for {who}, which unpacks layer x"]


def test_short_wait_is_not_told(store: Store) -> None:
    told: list[str] = []
    order: list[str] = []

    def wait() -> None:
        with store.lock("x", tell=told.append):
            order.append("waiter")

    thread = threading.Thread(target=wait)
    with store.lock("x"):
        thread.start()
        order.append("holder")
    thread.join()

    assert (told, order) == ([], ["holder", "waiter"])


def test_lock_dies_with_its_process(store: Store) -> None:
    program = (
        "import sys, pathlib, os, signal\n"
        "from pytest_rootfs.store.store import Store\n"
        "with Store.open(pathlib.Path(sys.argv[1])).lock('x'):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-P" if sys.version_info >= (3, 11) else "-B", "-c", program]
    subprocess.run(
        [*command, str(store.root)], check=False, env={**os.environ, "PYTHONPATH": _source()}
    )

    with store.lock("x"):
        pass


def _source() -> str:
    import pytest_rootfs

    return str(Path(pytest_rootfs.__file__).parents[1])


def test_layer_appears_complete(store: Store) -> None:
    with store.stage_layer("u", None) as staged:
        os.close(os.open("file", os.O_CREAT, dir_fd=staged.fd))
        assert not store.has_layer("u", DIFF_ID)
        staged.publish(DIFF_ID, {"diff_id": DIFF_ID, "entries": 1})

    assert store.has_layer("u", DIFF_ID)
    assert not store.has_layer("other", DIFF_ID)
    assert meta_of(store, DIFF_ID)["entries"] == 1
    assert os.listdir(store.root / "layers/u" / layer_rel(DIFF_ID)) == ["file"]


def test_loser_of_race_succeeds(store: Store) -> None:
    with store.stage_layer("u", None) as first, store.stage_layer("u", None) as second:
        first.publish(DIFF_ID, {"winner": "first"})
        second.publish(DIFF_ID, {"winner": "second"})

    assert meta_of(store, DIFF_ID)["winner"] == "first"
    assert list((store.root / "tmp").iterdir()) == []
    assert list((store.root / "trash").iterdir()) == []


def test_discarded_layer_leaves_nothing(store: Store) -> None:
    with store.stage_layer("u", None) as staged:
        os.mkdir("d", 0o000, dir_fd=staged.fd)

    assert not store.has_layer("u", DIFF_ID)
    assert list((store.root / "tmp").iterdir()) == []
    assert list((store.root / "trash").iterdir()) == []


def test_layer_with_other_digest_is_corrupt(store: Store) -> None:
    with (
        store.stage_layer("u", None) as staged,
        pytest.raises(LayerCorrupt, match="is damaged"),
    ):
        staged.publish(DIFF_ID, {"diff_id": "sha256:" + "2" * 64})

    assert not store.has_layer("u", DIFF_ID)


def test_layer_from_before_reboot_is_replaced(store: Store) -> None:
    with store.stage_layer("u", None) as staged:
        staged.publish(DIFF_ID, {})
    meta_path = store.root / "layers" / "u" / ("1" * 64) / "meta.json"
    meta_path.write_text(json.dumps({"boot_id": "another"}))

    store.close()
    assert not store.has_layer("u", DIFF_ID)
    with store.stage_layer("u", None) as staged:
        staged.publish(DIFF_ID, {"again": True})

    assert store.has_layer("u", DIFF_ID)
    assert meta_of(store, DIFF_ID)["again"]


@pytest.mark.parametrize(("age_s", "survives"), [(0, False), (120, True)])
def test_used_layer_survives_reboot_once_settled(
    store: Store, age_s: int, *, survives: bool
) -> None:
    with store.stage_layer("u", None) as staged:
        staged.publish(DIFF_ID, {})
    meta_path = store.root / "layers" / "u" / ("1" * 64) / "meta.json"
    assert store.has_layer("u", DIFF_ID)
    os.utime(meta_path, (time.time() - age_s,) * 2)

    store.close()

    meta_path.write_text(json.dumps({"boot_id": "another"}))
    assert store.has_layer("u", DIFF_ID) is survives


def test_tree_of_a_chain_has_its_name(store: Store) -> None:
    chain = "sha256:" + "3" * 64
    with store.stage_layer("u", None) as staged:
        staged.publish(DIFF_ID, {"diff_id": DIFF_ID}, name=chain)

    assert not store.has_layer("u", DIFF_ID)
    assert store.has_layer("u", chain)
    assert meta_of(store, chain)["diff_id"] == DIFF_ID


@needs("root")
def test_owner_gets_layer_folders(store: Store) -> None:
    with store.stage_layer("u", (100000, 100001)) as staged:
        staged.publish(DIFF_ID, {})

    layers = store.root / "layers" / "u"
    paths = [layers, layers / ("1" * 64), layers / ("1" * 64) / "fs"]
    assert {(path.stat().st_uid, path.stat().st_gid) for path in paths} == {(100000, 100001)}


@pytest.mark.parametrize(
    "digest", ["sha256:../../x", "SHA256:" + "1" * 64, "sha256:" + "A" * 64, "sha512:" + "1" * 128]
)
def test_odd_digest_never_becomes_path(store: Store, digest: str) -> None:
    with pytest.raises(ArchiveRejected, match="is not a digest"):
        store.blobs.path(digest)


@pytest.mark.parametrize("idmap", ["", "..", "a/b", "\n"])
def test_odd_idmap_never_becomes_path(store: Store, idmap: str) -> None:
    with pytest.raises(ValueError, match="id map"):
        store.layers_fd(idmap, None)


def test_refs_are_listed_in_index(store: Store) -> None:
    digest = store.blobs.put(b"{}", "application/vnd.oci.image.manifest.v1+json").digest

    store.refs.set("app/one:1", digest)
    store.refs.set(".hidden", digest)
    store.refs.set("two", digest)
    store.refs.delete("two")

    assert store.refs.list() == {".hidden": digest, "app/one:1": digest}
    assert store.refs.get("app/one:1") == digest
    assert store.refs.get("two") is None
    assert not store.refs.delete("two")
    index = json.loads((store.root / "index.json").read_text())
    assert [
        (each["annotations"]["org.opencontainers.image.ref.name"], each["digest"], each["size"])
        for each in index["manifests"]
    ] == [(".hidden", digest, 2), ("app/one:1", digest, 2)]


@pytest.mark.parametrize("name", ["", "a\0", "a\n", "x" * 300])
def test_odd_name_is_refused(store: Store, name: str) -> None:
    assert store.refs.get("..") is None
    with pytest.raises(ArchiveRejected, match="cannot be the name"):
        store.refs.get(name)


def test_ref_needs_its_blob(store: Store) -> None:
    with pytest.raises(LayerCorrupt, match="missing from the store"):
        store.refs.set("x", DIFF_ID)


def test_step_result_is_remembered(store: Store) -> None:
    key = "ab" * 32

    store.cache.put(key, {"layer": DIFF_ID})

    assert store.cache.get(key) == {"layer": DIFF_ID}
    assert store.cache.get("sha256:" + key) == {"layer": DIFF_ID}
    assert store.cache.get("cd" * 32) is None


def test_damaged_step_result_is_forgotten(store: Store) -> None:
    store.cache.put("ab" * 32, {})
    (path,) = (store.root / "cache").glob("*/*.json")

    path.write_text("{")

    assert store.cache.get("ab" * 32) is None
