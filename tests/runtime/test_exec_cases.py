"""A command as the suites of crun, runc and podman try it: statuses, programs, users, rights.

Root's commands are started by vfork, those of others and those on a terminal by fork: what holds
for all is asked of both.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from error_form import assert_well_formed
from features import needs

from pytest_rootfs.engine import Engine
from pytest_rootfs.errors import (
    CommandNotExecutable,
    CommandNotFound,
    ContainerDied,
    ContainerError,
)
from pytest_rootfs.image import Image
from pytest_rootfs.kernel import capabilities
from pytest_rootfs.runtime.container import Container

if TYPE_CHECKING:
    from conftest import Start

IGNORING = """
import signal, sys
from pathlib import Path
from pytest_rootfs.engine import Engine, EngineSettings
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
engine = Engine(EngineSettings(store=Path(sys.argv[1])), warn=print)
with engine.start("minimal") as container:
    for is_tty in (False, True):
        status = container.run(["cat", "/proc/self/status"], tty=is_tty).stdout
        ignored = next(line for line in status.splitlines() if line.startswith("SigIgn:"))
        print(int(ignored.split()[1], 16) & 0x7FFFFFFF)
engine.close()
"""
WAYS = [pytest.param({}, id="vfork"), pytest.param({"tty": True}, id="fork")]
SIGNALS = [*range(1, 20), *range(24, 32), 34, 64]


def script(container: Container, path: str, text: str, mode: int = 0o755) -> str:
    container.path(path).write_text(text)
    container.path(path).chmod(mode)
    return path


def refusal(call: Callable[[], object]) -> ContainerError:
    """Return the error of a command that cannot start, which has the right form."""
    with pytest.raises(ContainerError) as caught:
        call()
    assert_well_formed(caught.value)
    return caught.value


def status_of(container: Container, **call: object) -> dict[str, str]:
    text = container.run(["cat", "/proc/self/status"], **call).stdout  # type: ignore[arg-type]
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("status", [0, 1, 2, 125, 126, 127, 128, 129, 137, 255])
def test_exit_status_comes_back(container: Container, status: int, way: dict[str, bool]) -> None:
    assert container.run(f"exit {status}", check=False, **way).returncode == status


@pytest.mark.parametrize("way", WAYS)
def test_every_signal_gives_its_negative_number(container: Container, way: dict[str, bool]) -> None:
    ending = {signal.SIGCHLD: 0, signal.SIGURG: 0, signal.SIGWINCH: 0, signal.SIGCONT: 0}
    ending |= dict.fromkeys([signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGSTOP], 0)
    numbers = [number for number in SIGNALS if number not in ending]

    found = [container.run(f"kill -{n} $$", check=False, **way).returncode for n in numbers]

    assert found == [-number for number in numbers]


def test_program_below_a_file_is_not_found(container: Container) -> None:
    assert isinstance(refusal(lambda: container.run(["/etc/passwd/x"])), CommandNotFound)


@pytest.mark.parametrize("way", WAYS)
def test_missing_interpreter_of_a_script_is_named(
    container: Container, way: dict[str, bool]
) -> None:
    path = script(container, "/s", "#! /no/such/shell -e\n")

    error = refusal(lambda: container.run([path], **way))

    assert isinstance(error, CommandNotFound)
    assert error.what == "the interpreter /no/such/shell of /s is not in the container"


def test_missing_interpreter_of_an_interpreter_is_named(container: Container) -> None:
    script(container, "/inner", "#!/nonesuch\n")
    path = script(container, "/outer", "#!/inner\n")

    error = refusal(lambda: container.run([path]))

    assert error.what == "the interpreter /nonesuch of /outer is not in the container"


def test_missing_loader_of_a_binary_is_named(start: Start) -> None:
    container = start(Image.scratch().copy("/usr/bin/true", "/true"))

    error = refusal(lambda: container.run(["/true"]))

    assert isinstance(error, CommandNotFound)
    assert error.what.startswith("the interpreter /lib") and " of /true is not in" in error.what
    assert "Image.add_binary" in error.hint


@pytest.mark.parametrize("interpreter", ["/etc", "/plain", "/dev/null"])
def test_interpreter_that_is_no_program_is_named(container: Container, interpreter: str) -> None:
    script(container, "/plain", "text\n", mode=0o644)
    path = script(container, "/s", f"#!{interpreter}\n")

    error = refusal(lambda: container.run([path]))

    assert isinstance(error, CommandNotExecutable)
    assert error.what.startswith(f"the interpreter {interpreter} of /s cannot be executed by user")


def test_script_that_interprets_itself_is_refused(container: Container) -> None:
    path = script(container, "/s", "#!/s\n")

    error = refusal(lambda: container.run([path]))

    assert isinstance(error, CommandNotExecutable)
    assert error.what.startswith("/s is interpreted by a script of a script")


@pytest.mark.parametrize("text", ["", "echo hi\n", "\x7fELF\2\1\1", "#!\n", "#!", "MZ"])
def test_what_the_kernel_cannot_execute_is_refused(container: Container, text: str) -> None:
    path = script(container, "/s", text)

    assert isinstance(refusal(lambda: container.run([path])), CommandNotExecutable)


@pytest.mark.parametrize("size", [1, 63, 64, 120, 176])
def test_cut_binary_is_refused(container: Container, size: int) -> None:
    container.path("/cut").write_bytes(Path("/usr/bin/true").read_bytes()[:size])
    container.path("/cut").chmod(0o755)

    assert isinstance(refusal(lambda: container.run(["/cut"])), ContainerError)


def test_program_in_shared_memory_is_refused(container: Container) -> None:
    path = script(container, "/dev/shm/s", "#!/bin/sh\n")

    assert "put it in /tmp" in refusal(lambda: container.run([path])).hint


@needs("subids")
def test_program_in_a_closed_folder_is_refused(container: Container) -> None:
    container.path("/closed").mkdir(0o700)
    path = script(container, "/closed/s", "#!/bin/sh\n")

    error = refusal(lambda: container.run([path], user="12"))

    assert error.what == "/closed/s cannot be executed by user '12'"
    assert "pass its folders" in error.hint


@needs("subids")
def test_unreadable_script_runs_as_root_only(container: Container) -> None:
    path = script(container, "/s", "#!/bin/sh\necho ran\n", mode=0o711)

    assert container.run([path]).stdout == "ran\n"
    assert container.run([path], user="12", check=False).returncode != 0


@needs("pids")
def test_no_more_processes_is_told(start: Start) -> None:
    container = start(pids=2)
    with container.popen(["sleep", "100"]) as first, container.popen(["sleep", "100"]) as second:
        error = refusal(lambda: container.run(["true"]))
        first.kill()
        second.kill()
        first.wait()
        second.wait()

    assert error.what == "cannot start `true`: no more processes can be made in the container"
    assert "pids=" in error.hint
    assert container.run(["echo", "again"]).stdout == "again\n"


@pytest.mark.parametrize("way", WAYS)
def test_signals_are_as_after_a_login(container: Container, way: dict[str, bool]) -> None:
    status = status_of(container, **way)

    own = (
        1 << 31 | 1 << 32
    )  # 32 and 33 are glibc's: its posix_spawn ignores them until they are used
    assert int(status["SigIgn"], 16) & ~own == 0
    assert [int(status[name], 16) for name in ("SigBlk", "SigCgt", "SigPnd")] == [0, 0, 0]


@pytest.mark.slow
def test_ignored_signals_stay_outside(engine: Engine) -> None:
    argv = [sys.executable, "-c", IGNORING, str(engine.store.root)]

    done = subprocess.run(argv, check=True, capture_output=True, text=True, cwd="/")

    assert done.stdout == "0\n0\n"


@pytest.mark.parametrize("way", WAYS)
def test_capabilities_are_those_declared(container: Container, way: dict[str, bool]) -> None:
    status = status_of(container, **way)

    declared = capabilities.mask(capabilities.DEFAULT)
    sets = [int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb")]
    assert sets == [declared, declared, declared, 0, 0]


def test_sudo_may_be_tested(container: Container) -> None:
    assert status_of(container)["NoNewPrivs"] == "0"


def test_setuid_program_has_only_the_containers_rights(start: Start) -> None:
    container = start(capabilities=["CHOWN"])
    container.run("cp /usr/bin/cat /cat && chmod 4755 /cat")

    bounding = container.run("/cat /proc/self/status | grep CapBnd").stdout.split()[1]

    assert int(bounding, 16) == 1


@pytest.mark.parametrize("way", WAYS)
def test_command_leads_a_session_of_its_own(container: Container, way: dict[str, bool]) -> None:
    pid, group, session = container.run("cut -d' ' -f1,5,6 /proc/$$/stat", **way).stdout.split()

    assert pid == group == session


def test_command_has_no_controlling_terminal(container: Container) -> None:
    done = container.run("cat < /dev/tty", check=False)

    assert "No such device or address" in done.stderr


def test_program_is_seen_as_itself(container: Container) -> None:
    assert container.run(["readlink", "/proc/self/exe"]).stdout == "/usr/bin/readlink\n"


def test_niceness_and_processors_are_the_hosts(container: Container) -> None:
    nice, processors = container.run("nice; nproc").stdout.split()

    assert int(nice) == os.nice(0)
    assert int(processors) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("way", WAYS)
def test_no_argument_is_lost(container: Container, way: dict[str, bool]) -> None:
    words = ["", " ", "a b", "'", '"', "\\", "$HOME", "*", "-", "--", "\t"]

    shown = container.run(["printf", "<%s>", *words], **way).stdout

    assert shown == "".join(f"<{word}>" for word in words)


@needs("subids")
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("audio:x:29:app", "1000 1001 29"),
        ("audio:x:29:app\r\n", "1000 1001 29"),
        ("audio:x:29:apple,app\naudio2:x:29:app\nwheel:x:10:app\n", "1000 1001 10 29"),
        ("audio:x:+29:app\nhuge:x:99999999999:app\nbad:x::app\n", ""),
        ("no fields\naudio:x:29\n:::\naudio:x:31:app\n", "1000 1001 31"),
        ("a:x:29:\0app\nb:x:30:app\n", "1000 1001 30"),
        ("own:x:1001:app\n", "1000 1001"),
    ],
)
def test_odd_lines_of_the_group_file(people: Container, content: str, expected: str) -> None:
    people.path("/etc/group").write_text(content)

    if expected:
        assert people.run("echo $(id -u; id -G)", user="app").stdout == f"{expected}\n"
    else:
        assert "ids end at" in refusal(lambda: people.run(["id"], user="app")).what


@needs("subids")
def test_binary_group_file_gives_no_groups(people: Container) -> None:
    people.path("/etc/group").write_bytes(bytes(range(256)) * 1000)

    assert people.run(["id", "-G"], user="app").stdout == "1001\n"


def test_huge_group_file_is_refused(people: Container) -> None:
    people.path("/etc/group").write_bytes(b"x" * ((1 << 20) + 1))

    error = refusal(lambda: people.run(["id"], user="app"))

    assert error.what == (
        "cannot run as user 'app': /etc/group: not a regular file of at most 1 MiB"
    )


@pytest.mark.parametrize(
    ("content", "home"),
    [
        ("dup:x:0:0::/first:\ndup:x:0:0::/second:\n", "/first"),
        ("dup:x:0:0::/last", "/last"),
        ("garbage\n\n#\ndup:x:0:0::/x:\n", "/x"),
    ],
)
def test_first_good_line_counts(container: Container, content: str, home: str) -> None:
    container.path("/etc/passwd").write_text(content)

    assert container.run("echo $HOME", user="dup").stdout == f"{home}\n"


@pytest.mark.parametrize("way", WAYS)
def test_null_character_in_a_home_is_malformed(container: Container, way: dict[str, bool]) -> None:
    container.path("/etc/passwd").write_text("bad:x:0:0::/ho\0me:\n")

    error = refusal(lambda: container.run(["true"], user="bad", **way))

    assert error.what == "cannot run as user 'bad': its line in /etc/passwd is malformed"


@pytest.mark.parametrize("way", WAYS)
def test_undecodable_home_arrives(container: Container, way: dict[str, bool]) -> None:
    container.path("/etc/passwd").write_bytes(b"odd:x:0:0::/h\xff:\n")

    done = container.run(["printenv", "HOME"], user="odd", text=False, **way)

    assert done.stdout.rstrip() == b"/h\xff"


@needs("subids")
def test_terminal_belongs_to_the_user(people: Container) -> None:
    shown = people.run("stat -c '%u %a' $(tty)", user="app", tty=True).stdout

    assert shown == "1000 620\n"


def test_terminal_is_of_the_containers_own(container: Container) -> None:
    assert container.run("tty; ls /dev/pts", tty=True).stdout.split() == ["/dev/pts/0", "0", "ptmx"]


def test_command_that_starts_as_the_container_dies(container: Container) -> None:
    process = container.popen(["sleep", "100"])
    container.kill()

    error = refusal(lambda: container.run(["true"]))

    assert isinstance(error, ContainerDied)
    process.close()
