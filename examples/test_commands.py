"""Run commands: `container.run` has the manners of `subprocess.run`."""

import pytest

from pytest_rootfs import CommandFailed, CommandNotFound, CommandTimeout, Container, Image

TOOLBOX = Image("minimal").file("/opt/motd", "welcome\n").env(EDITOR="ed")


def test_string_is_run_by_the_shell(container: Container) -> None:
    assert container.run("echo one two | wc -w").stdout.strip() == "2"


def test_input_and_environment_are_given(container: Container) -> None:
    done = container.run('read name; echo "$SALUTE $name"', input="Ada\n", env={"SALUTE": "hello"})

    assert done.stdout == "hello Ada\n"


def test_failure_carries_status_and_output(container: Container) -> None:
    with pytest.raises(CommandFailed) as failed:
        container.run("echo no such luck >&2; exit 3")

    assert failed.value.returncode == 3
    assert failed.value.stderr == "no such luck\n"


def test_status_is_returned_when_nobody_checks(container: Container) -> None:
    assert container.run(["false"], check=False).returncode == 1


def test_missing_program_has_its_own_error(container: Container) -> None:
    with pytest.raises(CommandNotFound):
        container.run(["no-such-program"])


def test_command_past_its_timeout_is_killed(container: Container) -> None:
    with pytest.raises(CommandTimeout):
        container.run(["sleep", "60"], timeout=0.2)

    assert container.run("echo still here").stdout == "still here\n"


def test_every_test_starts_from_the_image(container: Container) -> None:
    assert container.changes() == {}


@pytest.mark.container(TOOLBOX)
def test_image_is_written_in_the_test_file(container: Container) -> None:
    assert container.run('echo "$(cat /opt/motd) $EDITOR"').stdout == "welcome ed\n"


@pytest.mark.container("scratch")
def test_image_without_a_single_file_has_files_all_the_same(container: Container) -> None:
    note = container.path("/note")
    note.write_text("written and read without a shell\n")

    assert note.read_text() == "written and read without a shell\n"
