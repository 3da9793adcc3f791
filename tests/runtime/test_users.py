"""Who a command runs as: names and numbers of the image's own files, and nothing else."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from features import needs
from hypothesis import given
from hypothesis import strategies as st

from pytest_rootfs.errors import ContainerError
from pytest_rootfs.image import Image
from pytest_rootfs.runtime import users
from pytest_rootfs.runtime.container import Container

if TYPE_CHECKING:
    from conftest import Start

SHOW_IDS = "echo $(id -u) $(id -g) $(id -G) $HOME $USER"


def ids(container: Container, user: str | int | None) -> str:
    return str(container.run(SHOW_IDS, user=user).stdout.strip())


@pytest.mark.parametrize("user", [None, 0, "0", "root", "0:0", "root:root"])
def test_root_by_any_name(container: Container, user: str | int | None) -> None:
    assert ids(container, user) == "0 0 0 /root root"


@needs("subids")
@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("app", "1000 1001 1001 29 44 /home/app app"),
        ("1000", "1000 1001 1001 29 44 /home/app app"),
        (1000, "1000 1001 1001 29 44 /home/app app"),
        ("app:video", "1000 44 44 /home/app app"),
        ("app:7", "1000 7 7 /home/app app"),
        ("1000:7", "1000 7 7 /home/app app"),
        ("other", "1002 1002 1002 29 / other"),
        ("homeless", "1003 1003 1003 / homeless"),
        ("4000", "4000 0 0 / 4000"),
        ("4000:4001", "4000 4001 4001 / 4000"),
        ("0:7", "0 7 7 /root root"),
        ("root", "0 0 0 50 /root root"),
    ],
)
def test_user_of_the_image(people: Container, user: str | int, expected: str) -> None:
    assert ids(people, user) == expected


@pytest.mark.parametrize(
    "user",
    [
        "nonesuch",
        "+0",
        "-1",
        "-0",
        "00",
        "0x0",
        "0 ",
        " 0",
        "\u0660",
        "root ",
        "Root",
        "root,",
        "1e0",
    ],
)
def test_what_is_no_user_is_never_root(container: Container, user: str) -> None:
    with pytest.raises(ContainerError, match="no such user") as failure:
        container.run(["id"], user=user)

    assert "/etc/passwd" in failure.value.hint


@pytest.mark.parametrize("user", ["", ":", ":0", "0:", "0:nonesuch", "0:0:0", "root:+0"])
def test_malformed_user_is_refused(container: Container, user: str) -> None:
    with pytest.raises(ContainerError, match="cannot run as user"):
        container.run(["id"], user=user)


@pytest.mark.parametrize("user", ["4294967295", "4294967296", "0:4294967295", "9" * 5000])
def test_id_beyond_the_last_is_refused(container: Container, user: str) -> None:
    with pytest.raises(ContainerError, match="ids end at 4294967294"):
        container.run(["id"], user=user)


@pytest.mark.parametrize("stream", [subprocess.PIPE, subprocess.DEVNULL])
@pytest.mark.parametrize("user", ["70000", "0:70000"])
def test_id_outside_the_map_is_refused(container: Container, user: str, stream: int) -> None:
    with pytest.raises(ContainerError, match=f"cannot run as user '{user}': .* no such id"):
        container.run(["id"], user=user, stdout=stream, stderr=stream)

    assert container.run(["echo", "alive"]).stdout == "alive\n"


@needs("subids")
def test_user_of_image_and_mark(start: Start) -> None:
    image = Image("minimal").user("12:13")

    assert start(image).run(SHOW_IDS).stdout == "12 13 13 / 12\n"
    assert start(image, user="14:15").run(SHOW_IDS).stdout == "14 15 15 / 14\n"
    assert start(image, user="14:15").run(SHOW_IDS, user="root").stdout == "0 0 0 /root root\n"


def test_variable_of_the_call_beats_that_of_the_user(container: Container) -> None:
    assert container.run("echo $HOME $USER", env={"HOME": "/h", "USER": "u"}).stdout == "/h u\n"


def test_only_root_without_a_passwd_file(container: Container) -> None:
    container.path("/etc/passwd").unlink()

    assert container.run("echo $HOME $USER", user="0").stdout == "/root root\n"
    with pytest.raises(ContainerError, match="no such user"):
        container.run(["true"], user="root")


def test_new_user_is_seen_at_once(container: Container) -> None:
    with pytest.raises(ContainerError, match="no such user"):
        container.run(["true"], user="late")
    container.run("echo 'late:x:0:0::/late:' >> /etc/passwd")

    assert container.run("echo $HOME", user="late").stdout == "/late\n"


@pytest.mark.parametrize(
    "line", ["bad:x:+0:0::/:", "bad:x::0::/:", "bad:x:0x0:0::/:", "bad:x:0:::/:", "bad:x: 0:0::/:"]
)
def test_malformed_line_is_never_root(container: Container, line: str) -> None:
    container.path("/etc/passwd").write_text(f"{line}\n")

    with pytest.raises(ContainerError, match="malformed"):
        container.run(["id"], user="bad")


@pytest.mark.parametrize("content", ["", "bad\n", "\0\n", "bad:x:0:0\n", ":x:0:0::/:\n"])
def test_incomplete_line_is_no_user(container: Container, content: str) -> None:
    container.path("/etc/passwd").write_text(content)

    with pytest.raises(ContainerError, match="cannot run as user 'bad'"):
        container.run(["id"], user="bad")


@pytest.mark.parametrize(
    "target", ["/dev/zero", "/proc/self/fd/0", "/etc", "/nonesuch", "/tmp/fifo"]
)
def test_hostile_passwd_file_is_an_error_and_no_hang(container: Container, target: str) -> None:
    container.run(["mkfifo", "/tmp/fifo"])
    container.path("/etc/passwd").unlink()
    container.path("/etc/passwd").symlink_to(target)

    with pytest.raises(ContainerError, match="cannot run as user 'someone'"):
        container.run(["id"], user="someone", timeout=5)


@pytest.mark.parametrize("path", ["/etc/passwd", "/etc/group"])
def test_huge_file_of_users_is_refused_by_name(container: Container, path: str) -> None:
    container.path("/etc/passwd").write_text("someone:x:0:0::/:/bin/sh\n")
    container.path(path).write_bytes(b"x" * ((1 << 20) + 1))

    with pytest.raises(ContainerError, match=f": {path}: not a regular file of at most 1 MiB"):
        container.run(["id"], user="someone")
    assert not container.commands[-1].started


def test_line_beyond_the_last_id_is_nobody_elses(container: Container) -> None:
    line = "far:x:99999999999:99999999999::/:/bin/sh\n"
    for path in ("/etc/passwd", "/etc/group"):
        container.path(path).write_text(line + container.path(path).read_text())

    assert container.run("id -u", user="0").stdout == "0\n"
    with pytest.raises(ContainerError, match="ids end at"):
        container.run("id", user="far")


@needs("subids")
def test_files_of_a_user_belong_to_it(people: Container) -> None:
    people.run("touch ~/made", user="app")

    made = people.path("/home/app/made").stat()
    assert (made.st_uid, made.st_gid) == (1000, 1001)


@needs("subids")
def test_user_cannot_write_what_is_roots(container: Container) -> None:
    done = container.run(["touch", "/etc/x"], user="12", check=False)

    assert "Permission denied" in done.stderr


@pytest.mark.slow
@given(st.text(max_size=12))
def test_only_plain_decimals_are_numbers(text: str) -> None:
    number = users._number(text)

    assert (number is None) or str(number) == text


@given(st.integers(min_value=0, max_value=(1 << 32) - 2))
def test_every_id_is_a_number(uid: int) -> None:
    assert users._number(str(uid)) == uid


@needs("subids")
@pytest.mark.parametrize("tty", [False, True])
def test_command_of_a_user_has_nothing_of_root(container: Container, *, tty: bool) -> None:
    shown = container.run(["cat", "/proc/self/status"], user="1000:1001", tty=tty).stdout

    fields = dict(line.split(":", 1) for line in shown.split("\n") if ":" in line)
    assert fields["Uid"].split() == ["1000"] * 4
    assert fields["Gid"].split() == ["1001"] * 4
    assert fields["Groups"].split() == []
    assert {int(fields[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Amb")} == {0}


@needs("subids")
def test_init_stays_root_after_a_command_of_a_user(container: Container) -> None:
    container.run(["true"])  # by then init has dropped what commands shall not have
    before = credentials_of(container.pid)

    container.run(["true"], user="1000:1001")

    assert credentials_of(container.pid) == before
    assert ids(container, "0") == "0 0 0 /root root"


def credentials_of(pid: int) -> list[str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return [line for line in lines if line.startswith(("Uid", "Gid", "Groups", "Cap"))]
