"""Run Python as another user, among files of a host that is set up otherwise.

Everything is mounted in a mount namespace of the child's own, so the machine stays as it is.
Needs root.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from places import temporary_folder

import pytest_rootfs
from pytest_rootfs import images as recipes

NOBODY = 65534
PLACE = "/mnt"
STORE = f"{PLACE}/store"
READONLY_CGROUPS = """
grep -E ' - cgroup2? ' /proc/self/mountinfo | cut -d ' ' -f 5 | while read -r place; do
    mount -o remount,bind,ro "$place"
done
"""
"""For `setup`: as in a container without privileges."""
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": PLACE,
    "LANG": "C.UTF-8",
    "PYTHONPATH": f"{PLACE}/package",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTEST_ROOTFS_STORE": STORE,
}


def run_otherwise(
    argv: Sequence[str],
    *,
    uid: int = NOBODY,
    files: Mapping[str, Path] | None = None,
    setup: str = "",
    privileges: Sequence[str] = (),
    wrapper: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run the interpreter with arguments as a user, `files` lying over files of the host.

    `setup` is more shell text, executed as root in the mount namespace; `privileges` are options
    of setpriv; `wrapper` is a command that executes the rest of its words, still as root. The
    package can be imported, and STORE is a folder of the user's own.
    """
    groups = "--clear-groups" if uid else "--keep-groups"  # a namespace may forbid the former
    setpriv = ["setpriv", f"--reuid={uid}", f"--regid={uid}", groups, *privileges]
    interpreter = os.path.realpath(sys.executable)
    with temporary_folder() as folder:
        lines = [
            "set -e",
            f"chmod 755 {folder}",
            f"mount --bind {folder} {PLACE}",  # a tmpfs is no place for a store before Linux 6.6
            f"install -d -m 0700 -o {uid} -g {uid} {STORE}",
            *package_lines(),
            *(f"mount --bind '{path}' {target}" for target, path in (files or {}).items()),
            setup,
            *_interpreter(),
            "cd /",
            'exec "$@"',
        ]
        return subprocess.run(
            [
                *("unshare", "--mount", "sh", "-c", "\n".join(lines), "sh"),
                *(*wrapper, *setpriv, interpreter, *argv),
            ],
            env={**ENVIRONMENT, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


def package_lines() -> list[str]:
    """Copy the package to where everybody may read it; an editable one lies in two places."""
    target = f"{PLACE}/package/pytest_rootfs"
    package, images = (next(iter(each.__path__)) for each in (pytest_rootfs, recipes))
    return [
        f"mkdir -p {PLACE}/package",
        f"cp -r {package} {target}",
        f"[ -d {target}/images ] || cp -r {images} {target}/images",
    ]


def _interpreter() -> list[str]:
    """Show the interpreter at its own path, even where that is below a private folder (/root)."""
    prefix = Path(sys.base_prefix)
    if prefix == Path("/usr"):
        return []
    return [
        f"mkdir {PLACE}/python",
        f"mount --rbind {prefix} {PLACE}/python",
        f"mount -t tmpfs -o mode=0755 tmpfs /{prefix.parts[1]}",
        f"mkdir -p {prefix}",
        f"mount --move {PLACE}/python {prefix}",
    ]
