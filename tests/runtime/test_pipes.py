"""Two who read from one command: a thread with the file object, and who looks for a text."""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack
from typing import Any

from polling import wait_until

from pytest_rootfs.runtime.container import Container
from pytest_rootfs.runtime.pipes import Pipes


def test_listener_takes_nothing_from_a_reader() -> None:
    read_fd, write_fd = os.pipe()
    with ExitStack() as closing:
        closing.callback(os.close, write_fd)
        pipes = Pipes({1: read_fd}, None, text=False)
        closing.callback(pipes.close)
        os.write(write_fd, b"said")

        with pipes.heard[1].reading:  # as a reader does until it has read
            pipes.listen(0)
            while_reading = pipes.said()
        pipes.listen(0)

        assert (while_reading, pipes.said()) == ([b""], [b"said"])


def test_reader_that_waits_has_the_first_claim(container: Container) -> None:
    process = container.popen("until [ -e /tmp/go ]; do :; done; echo one; echo two")
    stdout: Any = process.stdout  # Any: a text stream
    lines: list[str] = []
    thread = threading.Thread(target=lambda: lines.extend(stdout))
    thread.start()
    wait_until(process._pipes.heard[1].reading.locked)  # it waits for the first line

    container.path("/tmp/go").touch()
    process.wait_for_output("two")
    thread.join(10)

    assert lines == ["one\n", "two\n"]
