"""Use a container in every way that depends on the host, and print what came out as JSON.

A program, so that it can be run on a host made poorer (`hosts.findings`): `python exercise.py STORE
[IMAGE]`. What an error says is printed, too.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from pytest_rootfs.engine import Engine, EngineSettings
from pytest_rootfs.errors import RootfsError
from pytest_rootfs.runtime.container import Container
from pytest_rootfs.runtime.spec import ContainerOptions

EXPECTED = {
    "output": "hello\n",
    "input": "from here",
    "terminal": "terminal",
    "link": "target text",
    "escape": "FileNotFoundError",
    "magic": "OSError 40",
    "timeout": "CommandTimeout",
    "left": "1\n",
    "changes": {
        "/etc/alternatives/awk": "deleted",
        "/etc/alternatives/new": "added",
        "/etc/alternatives/which": "deleted",
        "/etc/link": "added",
        "/target": "added",
    },
    "readonly": "OSError 30",
    "disk": True,
}
"""What is printed where nothing is missing."""


def exercise(engine: Engine, image: str) -> dict[str, object]:
    """Use one container that can be written to, and one that cannot."""
    with engine.start(image) as container:
        found = use(container)
        found["changes"] = {str(path): each.kind for path, each in container.changes().items()}
    with engine.start(image, options=ContainerOptions.from_keywords({"readonly": True})) as sealed:
        found["readonly"] = error_of(lambda: sealed.path("/new").write_text("x"))
    return {**found, "disk": engine.session.controllers["disk"]}


def use(container: Container) -> dict[str, object]:
    """Start commands of all kinds, follow links, replace a folder of the image."""
    path = container.path
    path("/target").write_text("target text")
    path("/etc/link").symlink_to("/../target")
    container.run(
        "cd /etc/alternatives && rm * && cd .. && rmdir alternatives && mkdir alternatives"
    )
    path("/etc/alternatives/new").touch()
    return {
        "output": container.run(["echo", "hello"]).stdout,
        "input": container.run(["cat"], input="from here").stdout,
        "terminal": container.run("test -t 0 && echo terminal", tty=True).stdout.strip(),
        "link": path("/etc/link").read_text(),
        "escape": error_of(path("/../../../etc/machine-id").read_bytes),
        "magic": error_of(path("/proc/self/root/target").read_bytes),
        "timeout": error_of(lambda: container.run("sleep 60 & sleep 60", timeout=0.3)),
        "left": container.run("ls /proc | grep -cx '[0-9]' || true").stdout,
    }


def error_of(action: Callable[[], object]) -> str:
    """Return the class of the error that an action raises, with the errno where it is no class."""
    try:
        action()
    except OSError as error:
        plain = type(error) is OSError
        return f"OSError {error.errno}" if plain else type(error).__name__
    except RootfsError as error:
        return type(error).__name__
    return "no error"


def main(store: str, image: str = "minimal") -> None:
    """Print the findings, or the error that says why there are none."""
    engine = Engine(EngineSettings(store=Path(store), limits="best-effort"), warn=lambda _: None)
    try:
        found = exercise(engine, image)
    except RootfsError as error:
        parts = {"what": error.what, "detail": error.detail, "hint": error.hint}
        found = {"error": type(error).__name__, **parts}
    finally:
        engine.close()
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
