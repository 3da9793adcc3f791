"""What one container test costs: ours, a C program that makes the same system calls, other engines.

    python benchmarks/lifecycle.py [--rounds 5] [--tests 200] [--json FILE]

Everything is interleaved in one run, because this kind of machine is noisy: each round measures
every candidate once more, and the table shows the minimum and the median of all samples. All run
`true` on the same files. Others are measured as their command line is used, process start
included; ours as pytest shows it, beyond a plain test of the same session.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pytest_rootfs.engine import Engine, EngineSettings
from pytest_rootfs.runtime.ids import find_ids

STORE = Path(__file__).parents[1] / ".cache" / f"store-{os.getuid()}"
FLOOR_SOURCE = Path(__file__).with_name("floor.c")
SESSION_TESTS = """
import pytest

@pytest.mark.parametrize("number", range({count}))
def test_plain(number):
    pass

@pytest.mark.parametrize("number", range({count}))
def test_container(container, number):
    container.run(["true"])
"""
SESSION_CONFTEST = """
import json, os, time
import pytest

took = {}

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    began = time.perf_counter()
    result = yield
    took.setdefault(item.originalname, []).append((time.perf_counter() - began) * 1e6)
    return result

def pytest_sessionfinish():
    with open(os.environ["TOOK"], "w") as file:
        json.dump(took, file)
"""
LIVES = ("pytest: one container test", "pytest: session / tests", "api total", "floor total")
"""What is, like a run of another engine, the whole life of a container."""

Samples = dict[str, list[float]]
"""Microseconds by the name of what was measured."""


class Floor:
    """The C program, on the layers and in the cgroup folders that our containers use."""

    def __init__(self, folder: Path, lowers: list[Path], groups: dict[str, bool]) -> None:
        program = folder / "floor"
        subprocess.run(["cc", "-O2", "-o", program, FLOOR_SOURCE], check=True)
        self._argv: list[str | Path] = [program, "-s", *self._ids(), "-p", "/bin/true"]
        for path, is_v2 in groups.items():
            self._argv += ["-2" if is_v2 else "-1", path]
        self._lowers = lowers

    @staticmethod
    def _ids() -> list[str]:
        lines = find_ids().uid_map
        if os.getuid() == 0:
            _, outside, count = lines[0]
        elif len(lines) > 1:
            _, outside, count = lines[1]
        else:
            return []
        return ["-b", str(outside), "-c", str(count)]

    def measure(self, rounds: int) -> Samples:
        """Return the samples of every phase."""
        argv = [*self._argv, "-n", str(rounds), *self._lowers]
        done = subprocess.run(argv, check=True, stdout=subprocess.PIPE)
        phases = json.loads(done.stdout)["phases_us"]
        return {f"floor {name}": phase["samples"] for name, phase in phases.items()}


class Session:
    """A pytest session of container tests and as many plain ones."""

    def __init__(self, folder: Path, store: Path) -> None:
        self._folder = folder / "session"
        self._folder.mkdir()
        self._store = store
        (self._folder / "conftest.py").write_text(SESSION_CONFTEST)

    def measure(self, tests: int) -> Samples:
        """Return what container tests took beyond the median plain test."""
        (self._folder / "test_it.py").write_text(SESSION_TESTS.format(count=tests))
        took = self._folder / "took.json"
        argv = [*pytest_argv(), "-q", f"--rootfs-store={self._store}", "test_it.py"]
        environment = {**os.environ, "TOOK": str(took)}
        subprocess.run(argv, check=True, capture_output=True, cwd=self._folder, env=environment)
        times = json.loads(took.read_text())
        plain = statistics.median(times["test_plain"])
        extra = [time_us - plain for time_us in times["test_container"]]
        return {
            "pytest: one container test": extra[1:],  # the first starts the engine
            "pytest: first container test": extra[:1],
            "pytest: a plain test": times["test_plain"],
            "pytest: session / tests": [sum(extra) / tests],
        }


class Api:
    """The same three calls without pytest."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def measure(self, rounds: int) -> Samples:
        """Return the samples of each call."""
        samples: Samples = {
            f"api {name}": [] for name in ("create", "run", "run again", "close", "total")
        }
        for _ in range(rounds):
            marks = [time.perf_counter()]
            container = self._engine.start("minimal")
            marks.append(time.perf_counter())
            container.run(["true"])
            marks.append(time.perf_counter())
            container.run(["true"])
            marks.append(time.perf_counter())
            container.close()
            marks.append(time.perf_counter())
            parts = [(end - begin) * 1e6 for begin, end in itertools.pairwise(marks)]
            for column, part in zip(samples.values(), [*parts, sum(parts) - parts[2]], strict=True):
                column.append(part)
        return samples


def pytest_argv() -> list[str]:
    """Return the command line of a pytest that reads no settings but ours."""
    return [sys.executable, "-c", "import pytest; pytest.console_main()", "-p", "no:cacheprovider"]


def measure_commands(engines: dict[str, list[str | Path]], rounds: int) -> Samples:
    """Return the samples of running each command to its end, interleaved."""
    samples: Samples = {name: [] for name in engines}
    for _ in range(rounds):
        for name, argv in engines.items():
            began = time.perf_counter()
            subprocess.run(argv, check=True, capture_output=True, stdin=subprocess.DEVNULL)
            samples[name].append((time.perf_counter() - began) * 1e6)
    return samples


def measure_import() -> Samples:
    """Return what importing the plugin adds to importing pytest, in a new interpreter."""
    program = (
        "import time, pytest, _pytest.config; began = time.perf_counter();"
        "import pytest_rootfs.plugin, pytest_rootfs.fixtures;"
        "print((time.perf_counter() - began) * 1e6)"
    )
    # a user's interpreter keeps what it has compiled
    env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    argv = [sys.executable, "-c", program]
    done = subprocess.run(argv, check=True, capture_output=True, env=env)
    return {"import of the plugin": [float(done.stdout)]}


def measure_start(folder: Path) -> Samples:
    """Return pytest's own time for a suite without containers, with the plugin and without."""
    suite = folder / "test_nothing.py"
    suite.write_text("def test_nothing(): pass\n")
    samples: Samples = {}
    for name, options in {
        "with": [],
        "without": ["-p", "no:rootfs", "-p", "no:rootfs.fixtures"],
    }.items():
        began = time.perf_counter()
        argv = [*pytest_argv(), "-q", *options, suite.name]
        subprocess.run(argv, check=True, capture_output=True, cwd=folder)
        samples[f"pytest {name} the plugin"] = [(time.perf_counter() - began) * 1e6]
    return samples


def flatten(lowers: list[Path], target: Path) -> Path:
    """Copy layers, top first, over each other into one folder, for engines without layers."""
    target.mkdir()
    for lower in reversed(lowers):
        subprocess.run(["cp", "-a", "--remove-destination", f"{lower}/.", target], check=True)
    for name in ("proc", "sys", "dev", "tmp"):
        (target / name).mkdir(exist_ok=True)
    return target


def other_engines(root: Path, folder: Path) -> dict[str, list[str | Path]]:
    """Return the command lines of the engines that are installed."""
    commands: dict[str, list[str | Path]] = {
        "bwrap": [
            "bwrap",
            "--unshare-all",
            "--bind",
            root,
            "/",
            "--proc",
            "/proc",
            "--dev",
            "/dev",
            "true",
        ],
        "podman": podman_command(root),
        "podman+runc": podman_command(root, "--runtime", "runc"),
        "unshare": ["unshare", "-mpfniuC", "true"],
    }
    for name in ("runc", "crun"):
        if shutil.which(name):
            commands[name] = bundle_command(name, root, folder / name)
    return {name: argv for name, argv in commands.items() if shutil.which(argv[0])}


def podman_command(root: Path, *options: str) -> list[str | Path]:
    """Return podman's command; with limits that need no right to raise one."""
    limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"]
    return [
        "podman",
        *options,
        "run",
        "--rm",
        "--net=none",
        *limits,
        "--rootfs",
        f"{root}:O",
        "true",
    ]


def bundle_command(name: str, root: Path, bundle: Path) -> list[str | Path]:
    """Write an OCI bundle that runs `true`, and return the command that runs it."""
    bundle.mkdir()
    rootless = [] if os.getuid() == 0 else ["--rootless"]
    subprocess.run([name, "spec", *rootless], check=True, cwd=bundle)
    path = bundle / "config.json"
    spec = json.loads(path.read_text())
    spec["process"].update(terminal=False, args=["true"])
    spec["root"].update(path=str(root), readonly=False)
    path.write_text(json.dumps(spec))
    return [name, "run", "--bundle", bundle, f"floor-{os.getpid()}"]


def usable(engines: dict[str, list[str | Path]]) -> Iterator[tuple[str, str]]:
    """Yield the engines that cannot run here, each with the last line of its reason."""
    for name, argv in engines.items():
        done = subprocess.run(argv, check=False, capture_output=True, text=True)
        if done.returncode:
            yield name, (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]


def cgroup_parents() -> dict[str, bool]:
    """Return the cgroup folders in which our session lives now; true for v2."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    folders = [
        x for pid in children for x in Path("/sys/fs/cgroup").rglob(f"pytest-rootfs-*-{pid}-*")
    ]
    return {str(x.parent): (x / "cgroup.controllers").exists() for x in folders}


def print_table(samples: Samples, refused: dict[str, str]) -> None:
    """Print minimum and median of everything, and how many times the floor each whole life is."""
    floor = samples["floor total"]
    print(f"{'':32} {'samples':>8} {'min ms':>8} {'median':>8} {'x floor: min':>13} {'median':>7}")
    for name, column in samples.items():
        least, median = min(column), statistics.median(column)
        line = f"{name:32} {len(column):8} {least / 1e3:8.2f} {median / 1e3:8.2f}"
        if name in LIVES or " " not in name:
            line += f" {least / min(floor):13.1f} {median / statistics.median(floor):7.1f}"
        print(line)
    for name, reason in refused.items():
        print(f"{name:32} cannot run here: {reason}")


def run_all(
    options: argparse.Namespace, folder: Path, engine: Engine
) -> tuple[Samples, dict[str, str]]:
    """Measure everything, round by round."""
    built = engine.builder.build(engine.resolve("minimal"))
    container = engine.start("minimal")
    groups = cgroup_parents()
    container.close()
    layers = engine.store.root / "layers" / find_ids().key
    lowers = [layers / name.removeprefix("sha256:") / "fs" for name in reversed(built.layers)]
    engines = other_engines(flatten(lowers, folder / "root"), folder)
    refused = dict(usable(engines))
    engines = {name: argv for name, argv in engines.items() if name not in refused}
    floor, session, api = (
        Floor(folder, lowers, groups),
        Session(folder, engine.store.root),
        Api(engine),
    )
    candidates: list[Callable[[], Samples]] = [
        lambda: session.measure(options.tests),
        lambda: floor.measure(options.tests),
        lambda: api.measure(options.tests),
        lambda: measure_commands(engines, options.others),
        measure_import,
        lambda: measure_start(folder),
    ]
    samples: Samples = {}
    for _ in range(options.rounds):
        for measure in candidates:
            for name, column in measure().items():
                samples.setdefault(name, []).extend(column)
    return samples, refused


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--rounds", type=int, default=5, help="how often each candidate has its turn"
    )
    parser.add_argument("--tests", type=int, default=200, help="containers of a turn")
    parser.add_argument(
        "--others", type=int, default=10, help="runs of each other engine in a turn"
    )
    parser.add_argument("--json", type=Path, help="write every sample there")
    options = parser.parse_args()
    engine = Engine(EngineSettings(store=STORE, limits="best-effort", image_folders=()), warn=print)
    with tempfile.TemporaryDirectory(prefix="lifecycle-") as name, contextlib.closing(engine):
        folder = Path(name)
        folder.chmod(0o755)
        samples, refused = run_all(options, folder, engine)
    print_table(samples, refused)
    if options.json:
        options.json.write_text(json.dumps({"samples_us": samples, "refused": refused}))


if __name__ == "__main__":
    main()
