"""Use a container on a host made poorer: with system calls denied, or mounts over its folders.

All mounts are in a mount namespace of the program's own. Root stays root there; an ordinary user
becomes root of a user namespace with a single id.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from denied import Denial, argv_with
from otherwise import ENVIRONMENT, PLACE, STORE, package_lines

SUPPORT = Path(__file__).parent


def findings(
    denials: Sequence[Denial] = (),
    *,
    setup: str = "",
    image: str = "minimal",
    around: Sequence[str] = (),
) -> dict[str, object]:
    """Run exercise.py with system calls denied, by a command `around`; return what it prints.

    `setup` is shell text, executed as root before; the store is then a new one, on a tmpfs that
    lies on PLACE, else that of the suite.
    """
    if setup:
        program = [os.path.realpath(sys.executable), f"{PLACE}/support/exercise.py", STORE, image]
        argv = [*_in_namespace(setup), *argv_with(denials, *program, folder=f"{PLACE}/support")]
        environment = ENVIRONMENT
    else:
        store = os.environ["PYTEST_ROOTFS_STORE"]
        argv = argv_with(denials, sys.executable, str(SUPPORT / "exercise.py"), store, image)
        environment = dict(os.environ)
    done = subprocess.run(
        [*around, *argv],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == "", done.stderr
    return dict(json.loads(done.stdout))


def copies() -> str:
    """Return shell text that copies the package and these programs to where they stay in sight."""
    lines = [f"mount -t tmpfs -o mode=0755 tmpfs {PLACE}", f"mkdir -m 0700 {STORE}"]
    return "\n".join([*lines, *package_lines(), f"cp -r {SUPPORT} {PLACE}/support"])


def _in_namespace(setup: str) -> list[str]:
    """Return the command that executes shell text, and then the words after it."""
    ids = [] if os.getuid() == 0 else ["--user", "--map-root-user"]
    text = f'{copies()}\n{setup}\ncd /\nexec "$@"'
    return ["unshare", *ids, "--mount", "sh", "-ec", text, "sh"]
