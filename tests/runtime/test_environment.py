"""What a command finds around it: variables, working directory, names, rights."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from features import needs

from pytest_rootfs.errors import ContainerError
from pytest_rootfs.image import Image
from pytest_rootfs.runtime.container import Container

if TYPE_CHECKING:
    from conftest import Start

FIXED = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "USER": "root",
    "TERM": "xterm",
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    "SOURCE_DATE_EPOCH": "315532800",
    "PYTHONHASHSEED": "0",
    "container": "pytest-rootfs",
}


def variables(container: Container, **call: str) -> dict[str, str]:
    lines = container.run(["env", "-0"], env=call or None).stdout.rstrip("\0").split("\0")
    return dict(line.split("=", 1) for line in lines)


def status(container: Container, *names: str, user: str | None = None) -> list[str]:
    text = container.run(["cat", "/proc/self/status"], user=user).stdout
    fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    return [fields[name].strip() for name in names]


def test_environment_is_fixed(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "of the host")

    assert variables(container) == FIXED


def test_image_then_mark_then_call(start: Start) -> None:
    image = Image("minimal").env(A="image", B="image", C="image", LANG="C")
    container = start(image, env={"B": "mark", "C": "mark"})

    found = variables(container, C="call", TERM="dumb")

    assert found == {**FIXED, "A": "image", "B": "mark", "C": "call", "LANG": "C", "TERM": "dumb"}


def test_value_arrives_unchanged(container: Container) -> None:
    assert variables(container, X="a=b\n ü")["X"] == "a=b\n ü"


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("", "x", ValueError),
        ("A=B", "x", ValueError),
        ("A", "x\0y", ValueError),
        ("A", 1, TypeError),
        (1, "A", TypeError),
    ],
)
def test_bad_variable_is_refused(
    container: Container, name: str, value: str, kind: type[Exception]
) -> None:
    with pytest.raises(kind, match="env"):
        container.run(["true"], env={name: value})


def test_working_directory_is_the_root(container: Container) -> None:
    assert container.run(["pwd"]).stdout == "/\n"


def test_working_directory_of_image_and_mark(start: Start) -> None:
    image = Image("minimal").workdir("/srv/app")

    assert start(image).run(["pwd"]).stdout == "/srv/app\n"
    assert start(image, workdir="/srv/mark").run(["pwd"]).stdout == "/srv/mark\n"


def test_working_directory_of_the_call(container: Container) -> None:
    assert container.run(["pwd"], cwd="/usr/bin").stdout == "/usr/bin\n"


def test_relative_working_directory_starts_at_the_containers(start: Start) -> None:
    container = start(workdir="/usr")

    assert container.run(["pwd"], cwd="bin").stdout == "/usr/bin\n"


def test_missing_working_directory(container: Container) -> None:
    with pytest.raises(ContainerError, match="'/nonesuch' as user '0': No such file") as failure:
        container.run(["true"], cwd="/nonesuch")

    assert "mkdir(parents=True)" in failure.value.hint


def test_file_is_no_working_directory(container: Container) -> None:
    with pytest.raises(ContainerError, match="'/etc/passwd' as user '0': Not a dir") as failure:
        container.run(["true"], cwd="/etc/passwd")

    assert failure.value.hint == ""


@needs("subids")
def test_working_directory_closed_to_the_user(container: Container) -> None:
    with pytest.raises(ContainerError, match="'/root' as user '12': Permission denied"):
        container.run(["true"], cwd="/root", user="12")


@pytest.mark.parametrize("path", ["/proc/self/fd/3", "/proc/1/cwd", "/proc/self/root", "/opt/link"])
def test_magic_links_lead_nowhere(container: Container, path: str) -> None:
    container.path("/opt/link").symlink_to("/proc/self/root")

    with pytest.raises(ContainerError, match="cannot enter the working directory"):
        container.run(["pwd"], cwd=path)


def test_symlink_to_a_folder_is_a_working_directory(container: Container) -> None:
    container.path("/opt/link").symlink_to("../usr/bin")

    assert container.run(["pwd", "-P"], cwd="/opt/link").stdout == "/usr/bin\n"


def test_host_name_is_always_the_same(container: Container) -> None:
    assert container.run(["hostname"]).stdout == "rootfs\n"
    assert container.run(["cat", "/etc/hostname"]).stdout == "rootfs\n"
    assert container.hostname == "rootfs"


def test_host_name_is_the_name_or_the_option(start: Start) -> None:
    assert start(name="web").run(["hostname"]).stdout == "web\n"
    assert start(name="web", hostname="db").run(["hostname"]).stdout == "db\n"


def test_host_name_is_in_hosts(start: Start) -> None:
    assert start(name="web").run(["getent", "hosts", "web"]).stdout.split()[-1] == "web"


def test_no_capability_is_inherited(container: Container) -> None:
    assert status(container, "CapInh", "CapAmb") == ["0000000000000000"] * 2


@needs("subids")
def test_user_has_no_capability(container: Container) -> None:
    sets = status(container, "CapInh", "CapPrm", "CapEff", "CapAmb", user="12")

    assert sets == ["0000000000000000"] * 4


def test_capabilities_are_dropped_for_good(start: Start) -> None:
    container = start(capabilities=["CHOWN"])

    assert status(container, "CapPrm", "CapEff", "CapBnd") == ["0000000000000001"] * 3


def test_dangerous_capabilities_are_not_there(container: Container) -> None:
    bounding = int(status(container, "CapBnd")[0], 16)

    assert not bounding & (1 << 21 | 1 << 16 | 1 << 19 | 1 << 25)  # SYS_ADMIN MODULE PTRACE TIME


@needs("unshare")
def test_no_user_namespace_can_be_made(start: Start) -> None:
    container = start(Image("minimal").add_binary("/usr/bin/unshare"))

    done = container.run(["unshare", "--user", "true"], check=False)

    assert "No space left on device" in done.stderr
    assert container.path("/proc/sys/user/max_user_namespaces").read_text() == "0\n"


@pytest.mark.parametrize(
    "path", ["/proc/sys/user/max_user_namespaces", "/proc/sys/kernel/hostname", "/sys/kernel/x"]
)
def test_kernel_settings_are_readonly(container: Container, path: str) -> None:
    done = container.run(f"echo 1 > {path}", check=False)

    assert done.returncode != 0
    assert "Read-only file system" in done.stderr or "Directory nonexistent" in done.stderr


def test_init_cannot_be_looked_into(container: Container) -> None:
    done = container.run(["ls", "/proc/1/fd/", "/proc/1/root/"], check=False)

    assert done.stdout == ""
    assert done.stderr.count("Permission denied") == 2


def test_processes_of_the_host_are_invisible(container: Container) -> None:
    done = container.run("cd /proc; echo [0-9]*")

    assert done.stdout.split()[0] == "1"
    assert len(done.stdout.split()) == 2


def test_files_of_the_host_are_unreachable(empty: Container) -> None:
    names = {path.name for path in empty.path("/").iterdir()}

    assert names == {"dev", "etc", "proc", "sys"}


def test_loopback_is_up(container: Container) -> None:
    done = container.run(["bash", "-c", "echo > /dev/tcp/127.0.0.1/9"], check=False)

    assert "Connection refused" in done.stderr


def test_network_is_not_there(container: Container) -> None:
    done = container.run(["bash", "-c", "echo > /dev/tcp/192.0.2.1/9"], check=False)

    assert "Network is unreachable" in done.stderr
    assert [path.name for path in container.path("/sys/class/net").iterdir()] == ["lo"]


def test_network_of_the_host(start: Start) -> None:
    container = start(network="host")

    links = {path.name for path in container.path("/sys/class/net").iterdir()}

    assert links == set(os.listdir("/sys/class/net"))


def test_resolver_of_the_host_is_that_of_now(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ("10.0.0.1", "10.0.0.2"):
        monkeypatch.setattr("pytest_rootfs.engine._resolv_conf", lambda at=address: f"{at}\n")
        container = start(network="host")
        assert container.path("/etc/resolv.conf").read_text() == f"{address}\n"


def test_devices_work(container: Container) -> None:
    done = container.run(
        "head -c2 /dev/zero | od -An -tx1; head -c9 /dev/urandom | wc -c; echo x > /dev/null; "
        "head -c1 /dev/zero > /dev/full",
        check=False,
    )

    assert done.stdout.split() == ["00", "00", "9"]
    assert "No space left on device" in done.stderr


def test_devices_are_few(container: Container) -> None:
    found = {path.name for path in container.path("/dev").iterdir()}

    assert found == {
        *("null", "zero", "full", "random", "urandom", "tty"),
        *("fd", "stdin", "stdout", "stderr", "ptmx", "pts", "shm", "mqueue"),
    }


def test_no_device_can_be_made(container: Container) -> None:
    done = container.run(["mknod", "/tmp/sda", "b", "8", "0"], check=False)

    assert "Operation not permitted" in done.stderr


def test_shared_memory_is_writable(container: Container) -> None:
    container.run("echo x > /dev/shm/x")

    assert container.path("/dev/shm/x").read_text() == "x\n"


def test_shared_memory_is_private(start: Start) -> None:
    first, second = start(), start()
    first.run("echo x > /dev/shm/x")

    assert not second.path("/dev/shm/x").exists()


def test_new_files_have_the_usual_mode(container: Container) -> None:
    assert container.run("umask; touch /tmp/x; stat -c %a /tmp/x").stdout == "0022\n644\n"
