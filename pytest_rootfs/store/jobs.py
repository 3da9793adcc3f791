"""Run the store's work on foreign file owners, inside a job process.

A job is forked by the warden and has entered the user namespace of the containers, with all
capabilities there, and a mount namespace of its own. Its arguments come as JSON and as
descriptors; its result is a small JSON object. Nothing here trusts what is in a layer.
"""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from typing import Any, BinaryIO  # arguments and results are JSON

from pytest_rootfs.kernel.trees import remove_tree_at
from pytest_rootfs.store.changes import diff, digests, pack
from pytest_rootfs.store.evidence import keep
from pytest_rootfs.store.layer_paths import View
from pytest_rootfs.store.layers import unpack
from pytest_rootfs.store.lookups import find
from pytest_rootfs.store.uppers import Sides

Arguments = dict[str, Any]
_OPEN_FILES = 65536


def unpack_layer(args: Arguments, fds: list[int]) -> dict[str, Any]:
    """Unpack: `{"squash_ids": bool, "knows_below": bool}`, [tar, target, *layers topmost first].

    The target, an empty folder, becomes the root of this process first. Returns UnpackResult's
    fields.
    """
    from pytest_rootfs.kernel import mounts  # noqa: PLC0415  the store itself has no ctypes

    tar_fd, target_fd, *layer_fds = fds
    _allow_many_files()
    below_fd = _base_view(layer_fds) if args.get("knows_below") else None
    mounts.pivot_into(target_fd)
    root_fd = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    with os.fdopen(tar_fd, "rb", closefd=False) as tar:
        result = unpack(
            tar, root_fd, squash_ids=bool(args.get("squash_ids", False)), below_fd=below_fd
        )
    os.close(root_fd)
    return asdict(result)


def diff_layer(args: Arguments, fds: list[int]) -> dict[str, Any]:
    """Compare: `{"hidden": [path…], "between": int, "digests": bool}` → `{"changes": count}`.

    Descriptors: [out, upper, *layers topmost first], of which the first `between` count with the
    upper folder. Writes one ChangeRecord a line to `out`; with `digests` instead `{"path": str,
    "sha256": str}` for each file that is there.
    """
    out_fd, upper_fd, *layer_fds = fds
    _allow_many_files()
    count = 0
    with os.fdopen(out_fd, "w", encoding="ascii", closefd=False) as out:
        write = digests if args.get("digests") else diff
        for record in write(_sides(args, upper_fd, layer_fds)):
            out.write(json.dumps(record.as_json()) + "\n")
            count += 1
    return {"changes": count}


def pack_layer(args: Arguments, fds: list[int]) -> dict[str, Any]:
    """Pack: `{"hidden": [path…], "between": int, "clamp_mtime", "max_bytes": int | None}`.

    Descriptors as for `diff_layer`. Returns PackResult's fields.
    """
    out_fd, upper_fd, *layer_fds = fds
    _allow_many_files()
    sides = _sides(args, upper_fd, layer_fds)
    with os.fdopen(out_fd, "wb", buffering=1 << 18, closefd=False) as out:
        result = pack(
            sides, out, clamp_mtime=args.get("clamp_mtime"), max_bytes=args.get("max_bytes")
        )
    return asdict(result)


def keep_layer(args: Arguments, fds: list[int]) -> dict[str, Any]:
    """Compare once: `{"hidden": [path…], "between": int, "max_bytes", "with_files": bool}`.

    Descriptors: [changes, (archive, if with_files,) upper, *layers topmost first]. Writes the lines
    of `evidence.keep` and the archive; returns `packed` (PackResult's fields, or None) and
    `refused`, the reason why there is no archive.
    """
    changes_fd, *rest = fds
    tar_fd = rest.pop(0) if args["with_files"] else None
    upper_fd, *layer_fds = rest
    _allow_many_files()
    sides = _sides(args, upper_fd, layer_fds)
    with os.fdopen(changes_fd, "w", encoding="ascii", closefd=False) as changes:
        kept = keep(sides, changes, tar_fd, max_bytes=args.get("max_bytes"))
    return asdict(kept)


def remove_tree(args: Arguments, fds: list[int]) -> dict[str, Any]:
    """Remove a tree: `{"name": str}`, [folder that holds it] → `{"freed_bytes": int}`.

    Gone already is success.
    """
    return {"freed_bytes": remove_tree_at(fds[0], os.fsencode(str(args["name"])))}


def open_view(args: Arguments, fds: list[int]) -> dict[str, Any]:
    """Read a path of merged layers: `{"path", "max_bytes"}`, [out, *layers topmost first].

    Links are resolved inside the view. Returns `{"type": None}` for a missing path, else `type`,
    `mode`, `uid`, `gid`, `size`, `mtime_ns` and `path`, the resolved one. A file's content, or the
    names in a folder as JSON (one object a line: `name`, `type`, `mode`, `uid`, `gid`, `size`,
    `mtime_ns`, `target`), is written to `out`; not that of a file with more than `max_bytes`.
    """
    out_fd, *layer_fds = fds
    with os.fdopen(out_fd, "wb", closefd=False) as out:
        return _read(_base_view(layer_fds), args, out)


def _read(view_fd: int, args: Arguments, out: BinaryIO) -> dict[str, Any]:
    with closing(View(view_fd)) as view:
        found = find(view, os.fsencode(str(args["path"])))
        if found is None:
            return {"type": None}
        if found.info.type != "file" or found.info.stat.st_size <= int(args["max_bytes"]):
            out.writelines(found.content())
        return found.as_json()


def open_changed(args: Arguments, fds: list[int]) -> dict[str, Any]:
    """Read a file as the topmost folder has it that has any: as `open_view`, [out, *folders].

    The file is known to be there, so no deletion above hides it.
    """
    out_fd, *folder_fds = fds
    answer: dict[str, Any] = {"type": None}
    with os.fdopen(out_fd, "wb", closefd=False) as out:
        for folder_fd in folder_fds:
            answer = _read(folder_fd, args, out)
            if answer["type"] is not None:
                break
    return answer


def _sides(args: Arguments, upper_fd: int, layer_fds: Sequence[int]) -> Sides:
    """Return what to compare: the first `between` layers count with the upper folder."""
    count = int(args.get("between", 0))
    return Sides(
        upper_fd=upper_fd,
        base_fd=_base_view(layer_fds[count:]),
        between=layer_fds[:count],
        hidden=[os.fsencode(str(path)) for path in args.get("hidden", ())],
    )


def _base_view(layer_fds: Sequence[int]) -> int:
    """Return the merged view of layers, -1 for none (the image `scratch`)."""
    from pytest_rootfs.kernel import mounts  # noqa: PLC0415  the store itself has no ctypes

    return mounts.overlay_view(layer_fds) if layer_fds else -1


def _allow_many_files() -> None:
    """Raise the limit of open files: comparing opens two a level, and paths have 2048 levels."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
