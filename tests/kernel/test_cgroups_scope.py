"""An ordinary user gets a control group from systemd, or hears why not."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from buses import of_systemd, refused, returned, service, signalled
from features import missing, needs
from groups import fork, status_of
from polling import wait_until

from pytest_rootfs.kernel import cgroups_reasons, cgroups_rights
from pytest_rootfs.kernel.cgroups import find_parent
from pytest_rootfs.kernel.cgroups_places import systemd_sockets
from pytest_rootfs.kernel.cgroups_scope import enter
from pytest_rootfs.kernel.dbus_messages import MEMBER, Message

FIND = """
import json, os, sys
from pytest_rootfs.kernel import cgroups
parent = cgroups.find_parent(sockets=cgroups.systemd_sockets(os.environ))
group = parent.create("c1", {"memory": 32 << 20, "pids": 5, "cpus": 0.5})
own = open("/proc/self/cgroup").read().strip()
print(json.dumps({**parent.describe(), "own": own, "figures": group.read()}), flush=True)
if sys.stdin.readline():
    group.remove()
    parent.remove()
"""


@pytest.fixture
def asker() -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Start processes that have found a place as the warden does."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        argv = [sys.executable, "-c", FIND]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        started.append(subprocess.Popen(argv, text=True, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def described(process: subprocess.Popen[str]) -> dict[str, object]:
    assert process.stdout is not None
    found: dict[str, object] = json.loads(process.stdout.readline())
    return found


def folder_of(facts: dict[str, object]) -> Path:
    (session,) = facts["folders"] if isinstance(facts["folders"], list) else ()
    return Path(session).parent


def test_scope_is_asked_for(tmp_path: Path) -> None:
    with service(tmp_path / "bus", of_systemd()) as called:
        enter([str(tmp_path / "bus")])

    assert called[1:] == ["Hello", "AddMatch", "StartTransientUnit"]


def test_manager_without_bus_is_asked_directly(tmp_path: Path) -> None:
    path = tmp_path / "systemd/private"
    path.parent.mkdir()

    with service(path, of_systemd()) as called:
        enter([str(path)])

    assert called[1:] == ["StartTransientUnit"]


def test_request_names_the_caller_and_delegates(tmp_path: Path) -> None:
    seen = []

    def answer(message: Message, serial: int) -> bytes:
        if message.fields[MEMBER] == "StartTransientUnit":
            seen.extend(message.values())
            return returned(serial) + signalled("JobRemoved", "uoss", 1, "/", seen[0], "done")
        return returned(serial)

    with service(tmp_path / "bus", answer):
        enter([str(tmp_path / "bus")])

    unit, mode, properties, auxiliary = seen
    assert unit == f"{cgroups_rights.session_name()}.scope"
    assert (mode, auxiliary) == ("fail", [])
    assert dict(properties) == {
        "Description": ("s", "Containers of pytest-rootfs"),
        "PIDs": ("au", [0]),
        "Delegate": ("b", True),
        "CollectMode": ("s", "inactive-or-failed"),
    }


def test_jobs_of_others_are_not_ours(tmp_path: Path) -> None:
    noise = signalled("JobRemoved", "uoss", 1, "/", "other.scope", "failed")

    with service(tmp_path / "bus", of_systemd(before=noise)):
        enter([str(tmp_path / "bus")])


def test_failed_job_is_a_refusal(tmp_path: Path) -> None:
    with (
        service(tmp_path / "bus", of_systemd("failed")),
        pytest.raises(
            OSError, match=r"its job for pytest-rootfs-\S+ ended with 'failed'"
        ) as caught,
    ):
        enter([str(tmp_path / "bus")])

    assert caught.value.filename == str(tmp_path / "bus")


def test_next_socket_is_tried(tmp_path: Path) -> None:
    with service(tmp_path / "bus", of_systemd()) as called:
        enter([str(tmp_path / "nothing"), str(tmp_path / "bus")])

    assert called


def test_what_systemd_says_comes_first(tmp_path: Path) -> None:
    with (
        service(tmp_path / "bus", lambda _message, serial: refused(serial, "Too many; later.")),
        pytest.raises(OSError, match="Too many, later") as caught,
    ):
        enter([str(tmp_path / "gone"), str(tmp_path / "bus"), str(tmp_path / "other")])

    assert caught.value.errno == errno.EREMOTEIO


def test_silent_systemd_is_given_up(tmp_path: Path) -> None:
    with (
        service(tmp_path / "bus", lambda _message, _serial: b""),
        pytest.raises(OSError, match="no answer in time"),
    ):
        enter([str(tmp_path / "bus")], timeout_s=0.05)


def test_no_socket_is_no_systemd() -> None:
    with pytest.raises(OSError, match="no systemd user manager runs"):
        enter([])


@needs("ordinary user")
def test_sockets_come_from_the_environment(tmp_path: Path) -> None:
    for name in ("a b", "bus", "systemd/private"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    addresses = ("tcp:host=x", "unix:abstract=/a%20b,guid=1", f"unix:path={tmp_path}/a%20b", ";")
    environment = {
        "DBUS_SESSION_BUS_ADDRESS": ";".join(addresses),
        "XDG_RUNTIME_DIR": str(tmp_path),
    }

    sockets = systemd_sockets(environment)

    assert [path for path in sockets if not path.startswith("/run/user/")] == [
        "\0/a b",
        f"{tmp_path}/a b",
        f"{tmp_path}/bus",
        f"{tmp_path}/systemd/private",
    ]


@needs("ordinary user")
@pytest.mark.parametrize("path", ["/etc/passwd", "/no/such/bus", "%zz", "%00"])
def test_only_own_sockets_count(path: str) -> None:
    sockets = systemd_sockets({"DBUS_SESSION_BUS_ADDRESS": f"unix:path={path}"})

    assert [path for path in sockets if not path.startswith("/run/user/")] == []


@needs("root")
def test_root_asks_nobody(tmp_path: Path) -> None:
    (tmp_path / "bus").touch()

    assert systemd_sockets({"XDG_RUNTIME_DIR": str(tmp_path)}) == []


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOENT, "none"), "no systemd user manager runs .* enable-linger"),
        (OSError(errno.EREMOTEIO, "Too many", "/r/bus"), "systemd at /r/bus .*: Too many; look at"),
    ],
)
def test_reason_names_cause_and_repair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, words: str
) -> None:
    monkeypatch.setattr(cgroups_reasons, "_SYSTEMD_RUNS", str(tmp_path))

    reason = cgroups_reasons.of_no_scope("/sys/fs/cgroup/session", error)

    assert reason.startswith("/sys/fs/cgroup/session is not delegated to us, and")
    assert re.search(words, reason)
    assert reason.count("; ") == 1


def test_host_without_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups_reasons, "_SYSTEMD_RUNS", str(tmp_path / "none"))

    reason = cgroups_reasons.of_no_scope("/sys/fs/cgroup", OSError(errno.ENOENT, "none"))

    assert reason.endswith(
        "there is no systemd here that could give us a folder; run pytest as root"
    )


def test_systemd_is_asked_only_where_it_must_be(tmp_path: Path) -> None:
    with service(tmp_path / "bus", of_systemd("failed")) as called:

        def be_warden() -> None:
            found = find_parent(sockets=[str(tmp_path / "bus")])
            found.remove()

        assert status_of(fork(be_warden)) == 0

    assert bool(called) == (not missing("systemd user session"))


@needs("systemd user session")
def test_refusal_of_systemd_is_the_reason(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with service(tmp_path / "bus", lambda _message, serial: refused(serial, "Not today.")):

        def be_warden() -> None:
            found = find_parent(sockets=[str(tmp_path / "bus")])
            os.write(writing, json.dumps(found.describe()).encode())
            found.remove()

        assert status_of(fork(be_warden)) == 0
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        facts = json.load(answer)

    lacking = [name for name, usable in facts["controllers"].items() if not usable]
    for name in lacking:
        assert "gives us no scope: Not today; look at" in facts["reasons"][name]
    assert lacking or facts["folders"]


@needs("systemd user session")
def test_user_limits_in_scope_of_systemd(
    asker: Callable[[], subprocess.Popen[str]],
) -> None:
    process = asker()

    facts = described(process)

    assert facts["controllers"] == {"memory": True, "pids": True, "cpu": True}
    assert str(facts["own"]).endswith(".scope/pytest-rootfs-leaf")
    assert Path("/proc/self/cgroup").read_text().strip() != facts["own"]
    process.communicate("done\n")
    wait_until(lambda: not folder_of(facts).exists())


@needs("systemd user session")
def test_killed_owner_of_a_scope_leaves_nothing(
    asker: Callable[[], subprocess.Popen[str]],
) -> None:
    process = asker()
    facts = described(process)
    assert folder_of(facts).is_dir()

    process.send_signal(signal.SIGKILL)

    wait_until(lambda: not folder_of(facts).exists())


@needs("systemd user session")
def test_each_worker_has_its_scope(asker: Callable[[], subprocess.Popen[str]]) -> None:
    folders = [folder_of(described(asker())) for _ in range(3)]

    assert len(set(folders)) == 3
