"""Every error that the product raises on purpose.

RootfsError                    what, detail, hint
├── HostUnsupported            this machine cannot: no user namespace, no overlay … (skip or fail)
│   └── LimitUnavailable       this limit cannot be enforced here
├── ImageError
│   ├── ImageNotFound          reference, where was looked, near matches
│   ├── RecipeError            file, step, key, value
│   ├── BuildFailed            step, command, exit status, last lines
│   ├── LayerCorrupt           digest expected and found
│   └── ArchiveRejected        layer, entry, which rule
└── ContainerError
    ├── ContainerDied
    ├── CommandFailed          also subprocess.CalledProcessError
    ├── CommandTimeout         also TimeoutError and subprocess.TimeoutExpired
    ├── CommandNotFound        also FileNotFoundError
    └── CommandNotExecutable   also PermissionError

Anything else that escapes is a defect of ours and keeps its full traceback.
"""

from __future__ import annotations

import errno
import os
import shlex
import subprocess
from collections.abc import Sequence
from typing import Any

TAIL_LINES = 20
TAIL_SIZE = 1 << 20

Argv = Sequence[str | bytes | os.PathLike[str]]
Output = str | bytes | None
_Path = (str, bytes, os.PathLike)


class RootfsError(Exception):
    """An error with three parts: what happened, the detail, and the way out.

    `what` is lower case, without a full stop, and names the thing and its value. `hint` is one
    sentence with the command to type.
    """

    def __init__(self, what: str, *, detail: str = "", hint: str = "") -> None:
        Exception.__init__(self, what)  # not super(): CalledProcessError would be next
        self.what = what
        self.detail = detail
        self.hint = hint

    def __str__(self) -> str:
        """Join the three parts, one a line, leaving out the empty ones."""
        hint = f"hint: {self.hint}" if self.hint else ""
        return "\n".join(part for part in (self.what, self.detail, hint) if part)

    def __reduce__(self) -> tuple[object, ...]:
        """Survive pickling, whose default calls the class with `args` alone."""
        state = {**vars(self), "args": self.args}
        if isinstance(self, OSError):
            state |= {"errno": self.errno, "strerror": self.strerror, "filename": self.filename}
        return _restored, (type(self), state)


def _restored(kind: type[RootfsError], state: dict[str, Any]) -> RootfsError:  # Any: attributes
    error = kind.__new__(kind)
    for name, value in state.items():
        setattr(error, name, value)
    return error


class HostUnsupported(RootfsError):
    """The machine cannot do what is needed; the hint repairs it."""


class LimitUnavailable(HostUnsupported):
    """A limit that was asked for cannot be enforced on this machine."""


class ImageError(RootfsError):
    """Something is wrong with an image."""


class ImageNotFound(ImageError):
    """No image has this name; the detail says where was looked, the hint what is near."""


class RecipeError(ImageError):
    """A recipe is wrong; names file, step, key and value."""


class BuildFailed(ImageError):
    """A build step failed; names step, command and exit status, ends with its last lines."""


class LayerCorrupt(ImageError):
    """A layer's content does not have the digest that it is stored under."""


class ArchiveRejected(ImageError):
    """An archive breaks a rule; names layer, entry and rule."""


class ContainerError(RootfsError):
    """Something went wrong with a running container."""


class ContainerDied(ContainerError):
    """The init process of the container is gone."""


class CommandFailed(ContainerError, subprocess.CalledProcessError):
    """A command ended with a non-zero status, or by a signal (then `returncode` is negative)."""

    def __init__(
        self,
        command: str | Argv,
        returncode: int,
        *,
        stdout: Output = None,
        stderr: Output = None,
        reason: str = "",
    ) -> None:
        ending = _ending(returncode) + (f": {reason}" if reason else "")
        RootfsError.__init__(
            self, f"command {shown(command)} {ending}", detail=_outputs(stdout, stderr)
        )
        self.cmd = command
        self.returncode = returncode
        self.output = stdout
        self.stderr = stderr
        self.args = (returncode, command, stdout, stderr)

    __str__ = RootfsError.__str__
    __reduce__ = RootfsError.__reduce__


class CommandTimeout(ContainerError, TimeoutError, subprocess.TimeoutExpired):
    """A command ran longer than its time limit (seconds); it and all that it started are dead."""

    def __init__(
        self,
        command: str | Argv,
        timeout: float,
        *,
        stdout: Output = None,
        stderr: Output = None,
    ) -> None:
        RootfsError.__init__(
            self,
            f"command {shown(command)} did not end within {timeout:g} s and was killed",
            detail=_outputs(stdout, stderr),
            hint="raise timeout=… in the call or the mark, or --rootfs-timeout",
        )
        self.cmd = command
        self.timeout = timeout
        self.output: Any = stdout  # Any: typeshed narrows it to bytes
        self.stderr: Any = stderr  # Any: as above
        self.args = (command, timeout, stdout, stderr)

    __str__ = RootfsError.__str__
    __reduce__ = RootfsError.__reduce__


class CommandNotFound(ContainerError, FileNotFoundError):
    """The program does not exist in the container; a shell would say 127."""

    returncode = 127

    def __init__(self, what: str, *, program: str, detail: str = "", hint: str = "") -> None:
        OSError.__init__(self, errno.ENOENT, os.strerror(errno.ENOENT), program)
        RootfsError.__init__(self, what, detail=detail, hint=hint)

    __str__ = RootfsError.__str__
    __reduce__ = RootfsError.__reduce__


class CommandNotExecutable(ContainerError, PermissionError):
    """The program exists but cannot be executed; a shell would say 126."""

    returncode = 126

    def __init__(self, what: str, *, program: str, detail: str = "", hint: str = "") -> None:
        OSError.__init__(self, errno.EACCES, os.strerror(errno.EACCES), program)
        RootfsError.__init__(self, what, detail=detail, hint=hint)

    __str__ = RootfsError.__str__
    __reduce__ = RootfsError.__reduce__


def shown(command: str | Argv) -> str:
    """Write a command as a person would type it, shortened to 200 characters."""
    text = command if isinstance(command, str) else shlex.join(map(_word, command))
    return f"`{text if len(text) <= 200 else text[:197] + '…'}`"


def _word(word: object) -> str:
    return os.fsdecode(word) if isinstance(word, bytes) else str(word)


def _ending(returncode: int) -> str:
    if returncode >= 0:
        return f"failed with exit status {returncode}"
    return f"was killed by {signal_name(-returncode)}"


def signal_name(number: int) -> str:
    """Return the name of a signal; a number without one is `signal 99`."""
    import signal  # noqa: PLC0415  only a failing command needs it

    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _outputs(stdout: Output, stderr: Output) -> str:
    parts = (_tail("stdout", stdout), _tail("stderr", stderr))
    return "\n".join(part for part in parts if part)


def _tail(name: str, output: Output) -> str:
    if not output:
        return ""
    end = output[-TAIL_SIZE:]  # of a long output the lines are not even counted
    text = end.decode(errors="backslashreplace") if isinstance(end, bytes) else end
    lines = text.rstrip("\n").split("\n")
    left_out = ""
    if len(output) > TAIL_SIZE:
        left_out = (
            f" (the end of {len(output)} {'bytes' if isinstance(output, bytes) else 'characters'})"
        )
    elif len(lines) > TAIL_LINES:
        left_out = f" (last {TAIL_LINES} of {len(lines)} lines)"
    return "\n".join([f"{name}{left_out}:", *(f"  {line}" for line in lines[-TAIL_LINES:])])


def one_line(error: BaseException) -> str:
    """Return an error as one line; ours and the system's are sentences, others need their name."""
    if isinstance(error, OSError) and not isinstance(error, RootfsError) and error.strerror:
        place = f": {os.fsdecode(error.filename)}" if isinstance(error.filename, _Path) else ""
        return f"{error.strerror}{place}"
    text = str(error).partition("\n")[0]
    return text if isinstance(error, RootfsError) else f"{type(error).__name__}: {text}"
