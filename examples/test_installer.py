"""What does an installer do to a machine? The exact answer, file by file.

`container` is a fresh machine for each test, made of this host's shell and core utilities. The
folder with the installer is mounted into it, read-only; mount points are no changes.
"""

from pathlib import Path

import pytest

from pytest_rootfs import Container

SOURCES = Path(__file__).parent / "greeter"
INSTALL = ["sh", "/src/install.sh"]
INSTALLED = {
    "/etc/greeter": "added",
    "/etc/greeter/greeter.conf": "added",
    "/opt/greeter": "added",
    "/opt/greeter/greet": "added",
}

pytestmark = pytest.mark.container(mounts=[(SOURCES, "/src")])


def test_installer_makes_these_files_and_no_other(container: Container) -> None:
    container.run(INSTALL)

    assert container.changes() == INSTALLED


def test_installed_program_greets(container: Container) -> None:
    container.run(INSTALL)

    greeting = container.run(["/opt/greeter/greet", "Ada"])

    assert greeting.stdout == "hello, Ada\n"


def test_second_installation_changes_nothing_more(container: Container) -> None:
    container.run(INSTALL)
    container.run(INSTALL)

    assert container.changes() == INSTALLED


def test_configuration_of_the_user_survives(container: Container) -> None:
    configuration = container.path("/etc/greeter/greeter.conf")
    configuration.parent.mkdir()
    configuration.write_text("GREETING=bonjour\n")

    container.run(INSTALL)

    assert configuration.read_text() == "GREETING=bonjour\n"
    assert container.run(["/opt/greeter/greet"]).stdout == "bonjour, world\n"


def test_system_user_is_one_more_line_in_passwd(container: Container) -> None:
    container.run([*INSTALL, "--system-user"])

    assert container.changes() == {**INSTALLED, "/etc/passwd": "modified"}
    assert "+greeter:x:900:900::/opt/greeter:/bin/false" in container.diff("/etc/passwd")
