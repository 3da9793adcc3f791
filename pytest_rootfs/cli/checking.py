"""`fsck`: verify the store."""

from __future__ import annotations

import argparse

from pytest_rootfs.cli.output import counted, note, print_json, safe
from pytest_rootfs.cli.sessions import open_store
from pytest_rootfs.cli.verbs import Verb, add_json


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--repair", action="store_true", help="take away what is damaged and can be made again"
    )
    add_json(parser)


def _fsck(args: argparse.Namespace) -> int:
    from pytest_rootfs.store.checks import fsck  # noqa: PLC0415  for this verb only

    with open_store(args) as store:
        report = fsck(store, repair=args.repair)
    rows = [
        {
            "path": problem.path,
            "problem": problem.what,
            "repairable": problem.repair is not None,
            "repaired": problem in report.repaired,
        }
        for problem in report.problems
    ]
    status = 0 if len(report.repaired) == len(report.problems) else 1
    if args.json:
        print_json({"blobs": report.blobs, "layers": report.layers, "problems": rows})
        return status
    for row in rows:
        print(safe(f"{row['path']} {row['problem']}{': repaired' if row['repaired'] else ''}"))
    looked_at = f"{counted(report.blobs, 'blob')}, {counted(report.layers, 'unpacked layer')}"
    print(f"{looked_at}: {counted(len(rows), 'problem') if rows else 'no problems'}")
    if any(row["repairable"] and not row["repaired"] for row in rows):
        note("what can be made again is taken away by: pytest-rootfs fsck --repair")
    elif status:
        note("build or import again what cannot be used, or delete it: pytest-rootfs rm")
    return status


VERBS = {
    "fsck": Verb(
        description="Verify the store: the digest of every blob, what names, failures and "
        "unpacked layers say,\nthe index. Exits with 1 if a problem is left. Safe while tests run.",
        configure=_configure,
        act=_fsck,
        examples=("fsck",),
    ),
}
