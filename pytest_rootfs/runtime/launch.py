"""From the arguments of `run` and `popen` to a request for the container's init."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from pytest_rootfs import settings
from pytest_rootfs.runtime import refusals
from pytest_rootfs.runtime.endings import Command
from pytest_rootfs.runtime.path import AnyPath, ContainerPath, absolute
from pytest_rootfs.runtime.protocol import Message

Stream = int | IO[str] | IO[bytes] | None

SHELL = "/bin/sh"
DEFAULT_ENV = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "TERM": "xterm",
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    "SOURCE_DATE_EPOCH": str(settings.SOURCE_DATE_EPOCH),
    "PYTHONHASHSEED": "0",
    "container": "pytest-rootfs",
}
"""With HOME and USER, which follow the user, the whole environment; never the host's."""

TTY_SIZE = [24, 80]
MAX_ARGUMENT_BYTES = 2 << 20
"""What execve(2) takes of words and variables with the usual stack limit of 8 MiB; as JSON, each
byte of it may need six, and still fits into a frame."""

MAX_WORD_BYTES = 128 << 10
"""What execve(2) takes of one word with its null character, MAX_ARG_STRLEN."""

UTF8_BYTES = 4
"""What a character takes at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What a container says for commands that name no variables, working directory or user."""

    env: Mapping[str, str]
    cwd: str
    user: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """The arguments of one `run` or `popen`, with what the container says by default.

    `command` is as the caller gave it, `argv` the words to execute.
    """

    command: Command
    argv: list[str]
    env: Mapping[str, str]
    cwd: str
    user: str
    stdin: Stream
    stdout: Stream
    stderr: Stream
    tty: bool

    @property
    def piped(self) -> list[int]:
        """The numbers of the standard streams whose other end comes back."""
        if self.tty:
            return []
        streams = (self.stdin, self.stdout, self.stderr)
        return [number for number, kind in enumerate(streams) if kind == subprocess.PIPE]

    def request(self) -> tuple[Message, list[int]]:
        """Return the message to init and the descriptors that go with it."""
        self._check_size()
        fds: list[int] = []
        stdio = [
            _stdio(number, stream, fds)
            for number, stream in enumerate((self.stdin, self.stdout, self.stderr))
        ]
        message: Message = {
            "op": "spawn",
            "argv": self.argv,
            "env": self.env,
            "cwd": self.cwd,
            "user": self.user,
            "stdio": stdio,
            "tty": TTY_SIZE if self.tty else None,
        }
        return message, fds

    def _check_size(self) -> None:
        texts = [*self.argv, *self.env, *self.env.values()]
        if sum(map(len, texts)) * UTF8_BYTES + len(texts) <= MAX_WORD_BYTES:
            return  # whatever their characters are
        sizes = [len(os.fsencode(text)) + 1 for text in texts]
        if max(sizes[: len(self.argv)]) > MAX_WORD_BYTES or sum(sizes) > MAX_ARGUMENT_BYTES:
            raise refusals.too_long(self.argv)


def prepare(
    command: Command,
    defaults: Defaults,
    *,
    env: Mapping[str, str] | None,
    cwd: str | os.PathLike[str] | ContainerPath | None,
    user: str | int | None,
    stdio: Sequence[Stream],
    tty: bool,
) -> Call:
    """Check the arguments of `run` or `popen`, and put those of the container where none are.

    Raises TypeError or ValueError as `subprocess` would.
    """
    if tty and any(stream not in (None, subprocess.PIPE) for stream in stdio):
        raise ValueError(
            "with tty=True the three streams are the terminal: stdin=, stdout= and "
            "stderr= cannot send them elsewhere"
        )
    stdin, stdout, stderr = stdio
    return Call(
        command=command,
        argv=words_of(command),
        env=defaults.env if env is None else {**defaults.env, **checked_env(env)},
        cwd=defaults.cwd if cwd is None else _folder(cwd, defaults.cwd),
        user=defaults.user if user is None else _user(user),
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        tty=tty,
    )


@contextlib.contextmanager
def input_of(stdin: Stream, data: bytes | None) -> Iterator[Stream]:
    """Give what a command reads: data as a file in memory, which nobody has to go on sending."""
    if data is None:
        yield stdin
        return
    with os.fdopen(os.memfd_create("input"), "w+b") as stream:
        stream.write(data)
        stream.seek(0)
        yield stream


def words_of(command: object) -> list[str]:
    """Return the words to execute; a text is for the image's shell.

    Raises TypeError or ValueError as `subprocess` would.
    """
    if isinstance(command, str):
        return [SHELL, "-c", _word(command)]
    if isinstance(command, (bytes, bytearray)) or not isinstance(command, Sequence):
        raise TypeError(f"a command is a text or a sequence of texts, not {command!r}")
    if not command:
        raise ValueError("a command cannot be empty")
    return [_word(word) for word in command]


def checked_env(env: Mapping[str, str]) -> Mapping[str, str]:
    """Return the variables of a call; raises TypeError or ValueError naming the bad one."""
    if not isinstance(env, Mapping):
        raise TypeError(f"env is a mapping of names to values, not {env!r}")
    for name, value in env.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"env has {name!r}={value!r}: names and values are texts")
        if not name or "=" in name or not _can_be_passed(name) or not _can_be_passed(value):
            raise ValueError(f"env has {name!r}={value!r}, which no program can be given")
    return env


def _word(word: object) -> str:
    if isinstance(word, str):
        text = word
    elif isinstance(word, ContainerPath):
        text = str(word)
    elif isinstance(word, (bytes, os.PathLike)):
        text = os.fsdecode(word)
    else:
        raise TypeError(f"a command has {word!r}, which is not a text or a path")
    if not _can_be_passed(text):
        what = "a null character" if "\0" in text else "half of a character"
        raise ValueError(f"a command has {word!r}, which holds {what}")
    return text


def _can_be_passed(text: str) -> bool:
    """Tell whether execve(2) can be given a text: no null character, no unpaired surrogate."""
    if "\0" in text:
        return False
    try:
        return text.isascii() or bool(os.fsencode(text))
    except UnicodeEncodeError:
        return False


def _folder(cwd: AnyPath, workdir: str) -> str:
    if not isinstance(cwd, (str, bytes, ContainerPath, os.PathLike)):
        raise TypeError(f"cwd={cwd!r} is not a path")
    return absolute(cwd, workdir)


def _user(user: object) -> str:
    if isinstance(user, bool) or not isinstance(user, (str, int)):
        raise TypeError(f'user={user!r} is not a name, a number or a text such as "1000:1000"')
    return str(user)


def _stdio(number: int, stream: Stream, fds: list[int]) -> str | int:
    if stream == subprocess.PIPE:
        return "pipe"
    if stream is None or stream == subprocess.DEVNULL:
        return "null"
    if stream == subprocess.STDOUT:
        if number != 2:
            raise ValueError("only stderr can be subprocess.STDOUT")
        return "stdout"
    fds.append(_descriptor(("stdin", "stdout", "stderr")[number], stream))
    return len(fds) - 1


def _descriptor(name: str, stream: object) -> int:
    """Return the descriptor of a stream; raises TypeError for what has none, OSError if closed."""
    fd = None if isinstance(stream, bool) else stream  # True is docker-py's way to ask for a pipe
    if hasattr(stream, "fileno"):
        with contextlib.suppress(io.UnsupportedOperation):  # one of memory only
            fd = stream.fileno()
    if not isinstance(fd, int):
        raise TypeError(f"{name} is a file, a descriptor, PIPE or DEVNULL, not {stream!r}")
    try:
        os.fstat(fd)
    except (OSError, OverflowError):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), f"{name}={fd}") from None
    return fd
