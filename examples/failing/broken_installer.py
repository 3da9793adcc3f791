"""A test that fails, to walk into the failure afterwards. Its name keeps it out of the default run.

examples/run examples/failing/broken_installer.py
.venv/bin/pytest-rootfs shell last
"""

from pathlib import Path

import pytest

from pytest_rootfs import Container

SOURCES = Path(__file__).parents[1] / "greeter"


@pytest.mark.container(mounts=[(SOURCES, "/src")])
def test_installer_makes_only_the_program(container: Container) -> None:
    container.run(["sh", "/src/install.sh", "--system-user"])

    assert container.changes() == {"/opt/greeter": "added", "/opt/greeter/greet": "added"}
