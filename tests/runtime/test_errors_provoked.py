"""Every error of the runtime is provoked once, and reads as it should.

The texts are collected from the code: an error that is added without being provoked here fails the
last test.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from error_form import assert_well_formed
from error_texts import templates

import pytest_rootfs
from pytest_rootfs.engine import Engine, EngineSettings
from pytest_rootfs.errors import ContainerError, HostUnsupported, RootfsError
from pytest_rootfs.golden import GoldenFolder
from pytest_rootfs.image import Image
from pytest_rootfs.kernel.mounts import NESTED
from pytest_rootfs.runtime import (
    agent,
    deaths,
    host_reasons,
    protocol,
    refusals,
    runs,
    starts,
    surroundings,
)
from pytest_rootfs.runtime.client import StepFailed
from pytest_rootfs.runtime.container import Container
from pytest_rootfs.runtime.gaps import Gap
from pytest_rootfs.runtime.host_trees import _tree_of, _unmappable
from pytest_rootfs.runtime.limit_watch import LimitWatch
from pytest_rootfs.runtime.spec import ContainerOptions, Limits, Mount
from pytest_rootfs.runtime.surroundings import Surroundings

PACKAGE = Path(pytest_rootfs.__file__).parent
IDS = ("ids.py", "subordinate_ids.py")
"""Their gaps are provoked in test_ids.py, and only ever a part of an error."""
SOURCES = [
    *(path for path in (PACKAGE / "runtime").glob("*.py") if path.name not in IDS),
    *(PACKAGE / "engine.py", PACKAGE / "enforcement.py", PACKAGE / "homes.py"),
]


def step(name: str, code: int, subject: str = "") -> StepFailed:
    text = os.strerror(code)
    return StepFailed({"step": name, "errno": code, "text": text, "subject": subject})


class Stage:
    """Where errors are provoked: one engine for what can go on, one for what ends it."""

    def __init__(self, engine: Engine, closing: ExitStack) -> None:
        self.engine = engine
        self._closing = closing

    def start(self, image: Image | str = "minimal", **options: object) -> Container:
        """Start a container that is closed at the end."""
        checked = ContainerOptions.from_keywords(options)
        return self._closing.enter_context(self.engine.start(image, options=checked))

    def run(self, *words: str, **call: Any) -> object:  # Any: whatever `run` takes
        """Run a command in a new container."""
        return self.start().run(list(words), **call)

    def closed(self) -> Container:
        """Return a closed container."""
        container = self.start()
        container.close()
        return container

    def killed(self) -> Container:
        """Return a killed container."""
        container = self.start()
        container.kill()
        return container

    def run_without_descriptors(self) -> object:
        """Run a command for whose pipes this process may open no more files."""
        container = self.start()

        def receive(*_: object) -> None:
            raise protocol.NoRoom({})

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(agent.Conversation, "receive", receive)
            return container.run(["true"])

    def kill_as_another(self) -> None:
        """Kill a container that another process has made."""
        container = self.start()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(container._life, "_owner_pid", 1)
            container.kill()

    def end_undying(self) -> None:
        """End a container of which a process waits for a device that never answers."""

        def wait_in_vain(_: object) -> None:
            raise TimeoutError

        container = self.start()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(agent.Agent, "kill", wait_in_vain)
            self._closing.callback(container._home.release, container)
            container.end()

    def script(self, text: str) -> object:
        """Run a program with that text."""
        container = self.start()
        container.path("/s").write_text(text)
        container.path("/s").chmod(0o755)
        return container.run(["/s"])

    def lost(self) -> object:
        """Ask for a container whose spawner was killed."""
        own = Engine(EngineSettings(store=self.engine.store.root, makes_ahead=False), warn=print)
        self._closing.callback(own.close)
        container = own.start("minimal")
        fields = Path(f"/proc/{container.pid}/stat").read_text().rpartition(") ")[2].split()
        os.kill(int(fields[1]), signal.SIGKILL)
        return container.stats()

    def unlimited(self) -> object:
        """Ask for a limit where no cgroup may be used."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTEST_ROOTFS_CGROUP", "none")
            own = Engine(EngineSettings(store=self.engine.store.root), warn=print)
            self._closing.callback(own.close)
            return own.start("minimal", options=ContainerOptions(cpus=1.0))

    def frozen(self) -> object:
        """Run a command in a frozen container."""
        container = self.start()
        container.freeze()
        return container.run(["true"])

    def compare_when_closed(self) -> None:
        """Compare what a closed container has changed with a golden file."""
        self._closing.callback(setattr, self.engine, "find_golden", self.engine.find_golden)
        self.engine.find_golden = lambda: GoldenFolder(path=Path("/nonesuch"), updates=False)
        container = self.start()
        found = container.changes()
        container.close()
        found.match_golden("x")

    def restart_meanwhile(self) -> object:
        """Run a command in a container that is being restarted."""
        container = self.start()
        return container._life.begin_anew(lambda: container.run(["true"]))

    def restart_badly(self) -> object:
        """Run a command in a container whose restart has failed, as its source was replaced."""
        source = Path(tempfile.mkdtemp())
        container = self.start(mounts=[(source, "/mnt/here")])
        source.rmdir()
        with pytest.raises(ContainerError):
            container.restart()
        return container.run(["true"])

    def lower(self) -> object:
        """Lower a limit below what is in use."""
        container = self.start()
        container.run("head -c 4M /dev/zero > /x")
        container.limits.disk = "1M"  # type: ignore[assignment]  # as people write it
        return container

    def wait_in_vain(self) -> object:
        """Wait for the output of a command that ends without it."""
        container = self.start()
        with container.popen(["true"]) as process:
            process.wait_for_output("ready")
        return container

    def wait_too_long(self) -> object:
        """Wait for a file that nobody makes."""
        return self.start().wait_for(path="/nonesuch", timeout=0.01)

    def wait_for_the_dead(self) -> object:
        """Wait for a server that has failed."""
        container = self.start()
        with container.popen("exit 3", stdout=None) as process:
            process.wait()
            return container.wait_for(path="/nonesuch")

    def reset_to_foreign(self) -> object:
        """Reset to a snapshot of another image."""
        return self.start().reset(self.start("scratch").snapshot())

    def reset_to_lost(self) -> object:
        """Reset to a snapshot whose layer the store has lost."""
        container = self.start()
        container.path("/lost").write_text(f"{container.id}")
        snapshot = container.snapshot()
        for digest in snapshot.added:
            (self.engine.store.root / "blobs" / digest.replace(":", "/")).unlink()
        return container.reset(snapshot)

    def refuse_spawner(self) -> object:
        """Have the spawner refuse a call."""
        container = self.start()
        home: Any = container._home  # Any: a ContainerHome, of which the runtime does not know
        return home._call(container, "tree", path="/nonesuch", readonly=True, recursive=True)


def unkillable(_stage: Stage) -> object:
    def refuse() -> None:
        raise step("kill_tree", errno.ETIMEDOUT, "kill")

    process = SimpleNamespace(args=["dd"], finish=lambda *_: True, kill_tree=refuse)
    return runs.finish(process, None, 1.0)  # type: ignore[arg-type]  # no real one can be stuck


def raised(error: RootfsError) -> Callable[[Stage], object]:
    """Return a provocation for what needs another host: the error of its cause."""

    def provoke(_stage: Stage) -> object:
        raise error

    return provoke


DEAD = {"stats": {}, "disk_free_bytes": 1, "disk_free_files": 1}
GONE = Mount(source=Path("/nonesuch"), target="/mnt")
CALL = SimpleNamespace(argv=["prog"], command=["prog"], user="0", cwd="/")
NO_LIMITS = LimitWatch(Limits())
PROVOCATIONS: dict[str, Callable[[Stage], object]] = {
    "closed": lambda stage: stage.closed().run(["true"]),
    "given up": lambda stage: stage.closed().changes(),
    "killed by the test": lambda stage: stage.killed().run(["true"]),
    "being restarted": Stage.restart_meanwhile,
    "lost": Stage.lost,
    "foreign snapshot": Stage.reset_to_foreign,
    "lost snapshot": Stage.reset_to_lost,
    "refused by the spawner": Stage.refuse_spawner,
    "init silent": raised(deaths.explain("box", {**DEAD, "status": None}, NO_LIMITS, [])),
    "init ended": raised(deaths.explain("box", {**DEAD, "status": 9}, NO_LIMITS, [])),
    "failed": lambda stage: stage.run("false"),
    "late": lambda stage: stage.run("sleep", "100", timeout=0.01),
    "unkillable": unkillable,
    "not found": lambda stage: stage.run("nonesuch"),
    "no shell": lambda stage: stage.start("scratch").run("true"),
    "folder": lambda stage: stage.run("/etc"),
    "no x bit": lambda stage: stage.run("/etc/passwd"),
    "no binary": lambda stage: stage.script("text"),
    "no interpreter": lambda stage: stage.script("#!/nonesuch\n"),
    "bad interpreter": lambda stage: stage.script("#!/etc\n"),
    "endless interpreters": lambda stage: stage.script("#!/s\n"),
    "too long": lambda stage: stage.run("true", "x" * 200_000),
    "no processes": raised(refusals.refused(step("exec", errno.EAGAIN), CALL, Gap())),  # type: ignore[arg-type]  # enough of one
    "exec": raised(refusals.refused(step("exec", errno.EIO, "/prog"), CALL, Gap())),  # type: ignore[arg-type]  # as above
    "no folder": lambda stage: stage.run("true", cwd="/nonesuch"),
    "no user": lambda stage: stage.run("true", user="nonesuch"),
    "no id": lambda stage: stage.run("true", user="70000"),
    "standing": raised(refusals.refused(step("frozen", errno.EAGAIN), CALL, Gap())),  # type: ignore[arg-type]  # as above
    "frozen": Stage.frozen,
    "too low": Stage.lower,
    "dead since its restart": Stage.restart_badly,
    "silent program": Stage.wait_in_vain,
    "too slow": Stage.wait_too_long,
    "failed server": Stage.wait_for_the_dead,
    "no limit": Stage.unlimited,
    "no test": lambda stage: stage.start().changes().match_golden("x"),
    "closed changes": Stage.compare_when_closed,
    "no source": lambda stage: stage.start(mounts=[("/nonesuch/x", "/mnt")]),
    "no tree": lambda stage: _tree_of(stage.engine.session, GONE),
    "no id map": raised(_unmappable(GONE, "/nonesuch/proc")),
    "no mount point": lambda stage: stage.start(mounts=[("/etc", "/etc/passwd")]),
    "no start": lambda stage: stage.start(Image.scratch().file("/proc", "x")),
    "init killed": raised(starts.died(signal.SIGKILL)),
    "init ended early": raised(starts.died(256)),
    "two spawners killed": raised(starts.lost()),  # a real one: test_deaths.py
    "no descriptors for a call": raised(starts.unheard()),  # a real one: test_spares.py
    "no descriptors in pytest": raised(starts._short(OSError(errno.EMFILE, "x", "y"))),  # likewise
    "no descriptors for pipes": lambda stage: stage.run_without_descriptors(),
    "start killed": raised(starts.killed("warden")),  # a real one: test_deaths.py
    "undying": Stage.end_undying,
    "not its owner": Stage.kill_as_another,
}


def host(**read: Any) -> Surroundings:  # Any: its fields
    """Return surroundings that are plain but for what is given."""
    plain = {"release": "6.18.0", "outer": "", "settings": {}, "is_filtered": False}
    return Surroundings(**{**plain, "is_root": False, **read})


OLD = host(release="5.11.0")
HOSTS = {
    "WSL 1": host_reasons.old_kernel(host(release="4.4.0-19041-Microsoft")),
    "old": host_reasons.old_kernel(host(release="5.10.0")),
    "rw layer on disk": host_reasons.rw_on_disk(host()),
    "no mapped layers": host_reasons.unmappable_host(OLD),
    "no mapped /": host_reasons.unmappable_host(host()),
    "no mount_setattr": host_reasons.explain(step("tree", errno.ENOSYS, "mount_setattr"), OLD),
    "filtered call": host_reasons.explain(step("mount", errno.ENOSYS, "fsopen overlay"), host()),
    "third overlay": host_reasons.explain(step("mount", errno.EINVAL, f"overlay {NESTED}"), host()),
    "no overlay": host_reasons.explain(step("mount", errno.ENODEV, "fsopen overlay"), host()),
    "masked /proc": host_reasons.explain(step("proc", errno.EPERM, "mount 'proc'"), host()),
    "masked /sys": host_reasons.explain(step("sys", errno.EPERM, "mount 'sysfs'"), host()),
    "newuidmap": host_reasons.explain(step("start", errno.EPERM, "/usr/bin/newuidmap 1"), host()),
    "no more namespaces": surroundings.refusal(errno.ENOSPC, host()),
    "AppArmor": surroundings.refusal(errno.EPERM, host(settings={surroundings.APPARMOR: "1"})),
    "clone": surroundings.refusal(errno.EPERM, host(settings={surroundings.CLONE: "0"})),
    "no namespaces": surroundings.refusal(errno.EINVAL, host()),
    "outer": surroundings.refusal(errno.EPERM, host(outer="docker")),
    "filter": surroundings.refusal(errno.EPERM, host(is_filtered=True)),
    "denied": surroundings.refusal(errno.EPERM, host()),
}


def provoked(engine: Engine, name: str) -> RootfsError:
    with ExitStack() as closing, pytest.raises(RootfsError) as caught:
        PROVOCATIONS[name](Stage(engine, closing))
    return caught.value


@pytest.mark.parametrize("name", PROVOCATIONS)
def test_error_is_well_formed(engine: Engine, name: str) -> None:
    assert_well_formed(provoked(engine, name))


@pytest.mark.parametrize("name", HOSTS)
def test_error_of_a_host_is_well_formed(name: str) -> None:
    gap = HOSTS[name]

    assert gap.repair
    assert_well_formed(HostUnsupported(gap.reason, hint=gap.repair))


def test_refused_call_explains_itself() -> None:
    error = host_reasons.unsupported(step("unshare", errno.EPERM, "unshare"))

    assert error is not None
    assert_well_formed(error)
    assert str(error.detail).startswith("unshare")


@pytest.mark.parametrize(
    ("number", "is_filtered"),
    [(errno.EPERM, True), (errno.ENOSYS, True), (errno.EINVAL, False), (errno.EFAULT, False)],
)
def test_only_a_denial_is_blamed_on_a_filter(number: int, is_filtered: bool) -> None:  # noqa: FBT001  a parameter
    refused = step("set_hostname", number, "sethostname name")

    error = starts.refused(refused, {"init": []})

    assert ("a seccomp filter" in error.what) is is_filtered
    assert is_filtered or error.what.endswith(f"sethostname name: {os.strerror(number)}")
    assert_well_formed(error)


def test_other_refusal_of_a_start_is_well_formed() -> None:
    assert_well_formed(starts.no_session(step("start", errno.EIO, "/")))


@pytest.mark.slow
def test_no_error_is_left_out(engine: Engine) -> None:
    said = [provoked(engine, name).what for name in PROVOCATIONS]
    said += [gap.reason for gap in HOSTS.values()]
    said += [starts.no_session(step("start", errno.EIO, "/")).what]

    left_out = [
        f"{place}: {text}"
        for place, text in templates(SOURCES)
        if not any(re.fullmatch(text, what, re.DOTALL) for what in said)
    ]

    assert left_out == []
