"""Other engines, as their command line is used: one container that runs `true` and is gone."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.figures import Samples

DOCKER_IMAGE = "pytest-rootfs-benchmark"
COMMAND_TIMEOUT_S = 60

Command = Sequence[str | Path]


class Engines:
    """The engines that run here, and why the others do not."""

    def __init__(self, commands: dict[str, Command]) -> None:
        self.refused: dict[str, str] = {}
        self.commands: dict[str, Command] = {}
        for name, argv in commands.items():
            if reason := _why_not(argv):
                self.refused[name] = reason
            else:
                self.commands[name] = argv

    def measure(self, name: str, runs: int) -> Samples:
        """Return the milliseconds of running one to its end."""
        samples = []
        for _ in range(runs):
            began = time.perf_counter()
            _complete(self.commands[name], check=True)
            samples.append((time.perf_counter() - began) * 1e3)
        return {name: samples}

    def turns(self, runs: int) -> list[functools.partial[Samples]]:
        """Return what measures each."""
        return [functools.partial(self.measure, name, runs) for name in self.commands]


@contextmanager
def engines_on(lowers: Sequence[Path], folder: Path) -> Iterator[Engines]:
    """Give the other engines, on the same files in one folder."""
    root = flattened(lowers, folder / "root")
    commands: dict[str, Command] = {
        "bwrap": bwrap_command(root),
        "crun": bundle_command("crun", root, folder / "crun"),
        "runc": bundle_command("runc", root, folder / "runc"),
        "podman (crun)": podman_command(root, "--runtime", "crun"),
        "podman (runc)": podman_command(root, "--runtime", "runc"),
        "docker": ["docker", "run", "--rm", "--network=none", DOCKER_IMAGE, "true"],
        "unshare, no root file system": ["unshare", "-mpfniuC", "true"],
    }
    if os.getuid():  # an ordinary user's podman leaves a process and folders behind
        commands = {name: argv for name, argv in commands.items() if argv[0] != "podman"}
    has_image = load_into_docker(root)
    try:
        yield Engines(commands)
    finally:
        if has_image:
            _complete(["docker", "rmi", DOCKER_IMAGE])


def flattened(lowers: Sequence[Path], target: Path) -> Path:
    """Copy layers, top first, over each other into one folder, for engines without layers."""
    target.mkdir()
    for lower in reversed(lowers):
        subprocess.run(["cp", "-a", "--remove-destination", f"{lower}/.", target], check=True)
    for name in ("proc", "sys", "dev", "tmp"):
        (target / name).mkdir(exist_ok=True)
    return target


def bwrap_command(root: Path) -> Command:
    """Return bubblewrap's command."""
    mounts = ["--bind", str(root), "/", "--proc", "/proc", "--dev", "/dev"]
    return ["bwrap", "--unshare-all", *mounts, "true"]


def podman_command(root: Path, *options: str) -> Command:
    """Return podman's command; with limits that need no right to raise one."""
    limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"]
    rootfs = ["--rootfs", f"{root}:O"]
    return ["podman", *options, "run", "--rm", "--net=none", *limits, *rootfs, "true"]


def bundle_command(name: str, root: Path, bundle: Path) -> Command:
    """Write an OCI bundle that runs `true`, and return the command that runs it."""
    argv: Command = [name, "run", "--bundle", bundle, f"benchmark-{os.getpid()}"]
    if not shutil.which(name):
        return argv
    bundle.mkdir()
    rootless = [] if os.getuid() == 0 else ["--rootless"]
    subprocess.run([name, "spec", *rootless], check=True, cwd=bundle)
    path = bundle / "config.json"
    spec = json.loads(path.read_text())
    spec["process"].update(terminal=False, args=["true"])
    spec["root"].update(path=str(root), readonly=False)
    path.write_text(json.dumps(spec))
    return argv


def load_into_docker(root: Path) -> bool:
    """Make the files an image of docker's, which takes no folder; false where it has no daemon."""
    if not shutil.which("docker") or _why_not(["docker", "version"]):
        return False
    with subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE) as tar:
        subprocess.run(
            ["docker", "import", "-", DOCKER_IMAGE],
            stdin=tar.stdout,
            check=True,
            capture_output=True,
        )
    return True


def _why_not(argv: Command) -> str:
    """Return the first line of why a command cannot run here, "" if it can."""
    if not shutil.which(argv[0]):
        return "not installed"
    try:
        done = _complete(argv)
    except subprocess.TimeoutExpired:
        return f"did not end within {COMMAND_TIMEOUT_S} s"
    if not done.returncode:
        return ""
    lines = [line for line in done.stderr.splitlines() if line.strip() and "level=" not in line]
    return (lines or [f"status {done.returncode}"])[0]


def _complete(argv: Command, *, check: bool = False) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv,
        check=check,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=COMMAND_TIMEOUT_S,
    )
