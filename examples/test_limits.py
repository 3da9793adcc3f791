"""Limits are real: who goes over is stopped, and the error says which limit it was."""

import pytest

from pytest_rootfs import CommandFailed, Container


@pytest.mark.container(memory="32M")
def test_command_over_its_memory_is_killed(container: Container) -> None:
    with pytest.raises(CommandFailed, match="memory"):
        container.run("tail /dev/zero")  # waits for the last line, and keeps all of it until then

    assert container.stats().oom_kills == 1


@pytest.mark.container(memory="32M")
def test_container_outlives_its_greedy_command(container: Container) -> None:
    container.run("tail /dev/zero", check=False)

    assert container.run("echo still here").stdout == "still here\n"


@pytest.mark.container(disk="1M")
def test_full_disk_is_an_error_of_the_command(container: Container) -> None:
    with pytest.raises(CommandFailed, match="No space left on device"):
        container.run("head -c 2M /dev/zero > /big")
