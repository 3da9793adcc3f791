"""Reading and writing by `ContainerPath`: what `open` and its kin give, and to whom it belongs."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

import pytest

from pytest_rootfs.runtime.container import Container
from pytest_rootfs.runtime.path import ContainerPath

if TYPE_CHECKING:
    from conftest import Start


def test_text_comes_back(folder: ContainerPath) -> None:
    count = (folder / "x").write_text("größe\r\n")

    assert (count, (folder / "x").read_bytes()) == (7, "größe\r\n".encode())
    assert (folder / "x").read_text() == "größe\n"


def test_bytes_come_back(folder: ContainerPath) -> None:
    assert (folder / "x").write_bytes(b"\x00\xff") == 2
    assert (folder / "x").read_bytes() == b"\x00\xff"


def test_encoding_and_errors(folder: ContainerPath) -> None:
    (folder / "x").write_text("ü", encoding="latin-1")

    assert (folder / "x").read_bytes() == b"\xfc"
    assert (folder / "x").read_text(errors="replace") == "\ufffd"
    with pytest.raises(UnicodeDecodeError):
        (folder / "x").read_text()


def test_writing_replaces_the_content(folder: ContainerPath) -> None:
    (folder / "x").write_text("long content")
    (folder / "x").write_text("short")

    assert (folder / "x").read_text() == "short"


def test_open_appends(folder: ContainerPath) -> None:
    (folder / "x").write_text("a")
    with (folder / "x").open("a") as stream:
        stream.write("b")

    assert (folder / "x").read_text() == "ab"


def test_open_updates(folder: ContainerPath) -> None:
    (folder / "x").write_text("abc")
    with (folder / "x").open("r+") as stream:
        stream.seek(1)
        stream.write("X")

    assert (folder / "x").read_text() == "aXc"


def test_exclusive_creation(folder: ContainerPath) -> None:
    with (folder / "x").open("xb") as stream:
        stream.write(b"new")

    assert (folder / "x").read_text() == "new"
    with pytest.raises(FileExistsError):
        (folder / "x").open("x")


def test_exclusive_creation_follows_no_symlink(folder: ContainerPath) -> None:
    (folder / "link").symlink_to("elsewhere")

    with pytest.raises(FileExistsError):
        (folder / "link").open("x")


@pytest.mark.parametrize("mode", ["", "rw", "b", "rbt", "z", "r+w"])
def test_bad_mode_is_refused(folder: ContainerPath, mode: str) -> None:
    with pytest.raises(ValueError, match="mode"):
        (folder / "x").open(mode)

    assert not (folder / "x").exists()


def test_unbuffered_binary(folder: ContainerPath) -> None:
    with (folder / "x").open("wb", buffering=0) as stream:
        assert isinstance(stream, io.RawIOBase)


def test_fifo_is_not_waited_for(container: Container) -> None:
    container.run(["mkfifo", "/tmp/fifo"])

    assert container.path("/tmp/fifo").read_bytes() == b""
    with pytest.raises(OSError, match="No such device or address"):
        container.path("/tmp/fifo").write_text("nobody reads")


def test_devices_can_be_read_and_written(container: Container) -> None:
    container.path("/dev/null").write_text("gone")
    with container.path("/dev/zero").open("rb") as stream:
        assert stream.read(3) == b"\0\0\0"


def test_what_the_container_writes_is_read(container: Container) -> None:
    container.run("echo from inside > /tmp/x")
    container.path("/tmp/y").write_text("from outside\n")

    assert container.path("/tmp/x").read_text() == "from inside\n"
    assert container.run(["cat", "/tmp/y"]).stdout == "from outside\n"


def test_large_file_comes_back(container: Container) -> None:
    data = os.urandom(1 << 20) * 8

    container.path("/tmp/large").write_bytes(data)

    assert container.path("/tmp/large").read_bytes() == data


@pytest.mark.slow
def test_many_files_leak_no_descriptor(container: Container) -> None:
    for number in range(1100):  # the init's soft limit is 1024
        container.path(f"/tmp/{number % 10}").touch()

    assert len(list(container.path("/tmp").iterdir())) == 10


def test_open_file_outlives_the_container(container: Container) -> None:
    container.path("/tmp/x").write_text("content")
    with container.path("/tmp/x").open() as stream:
        container.kill()

        assert stream.read() == "content"


def test_readonly_container_refuses_writes(start: Start) -> None:
    container = start(readonly=True)

    with pytest.raises(OSError, match="Read-only file system"):
        container.path("/x").write_text("x")
