"""The command line: `pytest-rootfs VERB`.

Each group of verbs is a module with a table `VERBS`, imported when one of them is used; rich is
imported only to draw on a terminal. Exit status: 0 done, 1 failed, 2 usage, 3 not found; `shell`,
`exec` and `run` give the command's own.
"""

from __future__ import annotations

import argparse
import codecs
import errno
import importlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence

from pytest_rootfs.cli.output import safe
from pytest_rootfs.cli.verbs import NotFound, UsageError, Verb
from pytest_rootfs.errors import ImageNotFound, RootfsError
from pytest_rootfs.failure_shelf import FailureAmbiguous, FailureNotFound
from pytest_rootfs.failure_start import FilesNotKept

FAILED, USAGE, NOT_FOUND = 1, 2, 3
_ENCODING_ERRORS = "pytest-rootfs"

GROUPS: Mapping[str, Mapping[str, str]] = {
    "listing": {
        "failures": "list the kept failures of this project",
        "show": "tell what happened in a failure",
    },
    "diffs": {"diff": "show what changed against the image, another failure or a pass"},
    "files": {
        "ls": "list a folder of the failed container",
        "cat": "print a file of the failed container",
        "cp": "copy a file or folder out of the failed container",
    },
    "commands": {
        "shell": "open a shell in a new container with the failed one's files",
        "exec": "run a command in a new container with the failed one's files",
        "run": "run a command in a fresh container of an image",
    },
    "reruns": {"rerun": "run the failed test again, on a fresh image or from where it ended"},
    "exports": {"export": "write a failure as an archive for podman, docker or skopeo"},
    "imports": {"import-failure": "keep a failure that was exported elsewhere"},
    "cleaning": {
        "rm": "delete kept failures, or names of images",
        "gc": "delete what nothing in the store refers to",
    },
    "checking": {"fsck": "verify the store"},
    "images": {
        "images": "list the images that can be named here",
        "build": "build an image",
    },
    "image_details": {
        "inspect": "show what an image is",
        "history": "show the steps that made an image",
    },
    "image_files": {
        "import": "bring an image of docker, podman or skopeo into the store",
        "export-image": "write an image for docker, podman or skopeo",
    },
    "doctor": {"doctor": "tell what this host can do, and how to repair what it cannot"},
}
"""Module of this package → its verbs and their one-line help."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit status; prints errors, never a traceback for ours."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _open_standard_streams()
    codecs.register_error(_ENCODING_ERRORS, _encode_the_rest)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_ENCODING_ERRORS)
    try:
        status = _dispatch(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        _give_up_output()  # whoever read us has seen enough (`| head`)
        return FAILED
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except SystemExit as end:  # argparse: help, version or wrong usage
        return end.code if isinstance(end.code, int) else USAGE
    except RootfsError as error:
        _print_error(error.what, error.detail, error.hint)
        return _status_of(error)
    except OSError as error:
        _print_error(_sentence(error))
        _give_up_output()
        return FAILED
    return status


def _open_standard_streams() -> None:
    """Open what the caller has closed, or our own files would get its numbers.

    Output then has a descriptor for reading only, so that writing fails, as it did before.
    """
    for number, flags in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # the lowest number that is free
    if sys.stdin is None:
        sys.stdin = os.fdopen(0)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w")


def _sentence(error: OSError) -> str:
    """Return an error of the system with its place; writing is all that fails without one."""
    if error.errno == errno.EBADF:
        return "cannot write: standard output is closed"
    reason = error.strerror or str(error)
    if error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"cannot write: {reason}"
    return f"{reason}: {error.filename}" if error.filename else reason


def _encode_the_rest(error: UnicodeError) -> tuple[bytes, int]:
    """Write what an encoding lacks as escapes; bytes of names that are no text go through."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return b"".join(map(_encode, error.object[error.start : error.end])), error.end


def _encode(character: str) -> bytes:
    if "\udc80" <= character <= "\udcff":  # PEP 383
        return character.encode(errors="surrogateescape")
    return character.encode("ascii", "backslashreplace")


def _give_up_output() -> None:
    """Write what can be written, so that nothing is left to fail at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _dispatch(arguments: list[str]) -> int:
    homes = {name: module for module, verbs in GROUPS.items() for name in verbs}
    name = arguments[0] if arguments else ""
    if name == "--version":
        from importlib.metadata import version  # noqa: PLC0415  costs 20 ms

        print(f"pytest-rootfs {version('pytest-rootfs')}")
        return 0
    if name not in homes:
        _outer_parser().parse_args(arguments)  # help or an unknown verb: exits
        return USAGE
    verb = _load(homes[name], name)
    parser = argparse.ArgumentParser(
        prog=f"pytest-rootfs {name}",
        description=verb.description,
        epilog=_shown_examples(verb.examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--store",
        metavar="DIR",
        help="the store (default: rootfs_store of the project's pytest configuration, else "
        "$PYTEST_ROOTFS_STORE, else $XDG_CACHE_HOME/pytest-rootfs)",
    )
    verb.configure(parser)
    try:
        return verb.act(verb.parse(parser, arguments[1:]))
    except UsageError as error:
        parser.error(str(error))


def _shown_examples(examples: Sequence[str]) -> str:
    heading = "example" if len(examples) == 1 else "examples"
    return "\n  ".join([f"{heading}:", *(f"pytest-rootfs {each}" for each in examples)])


def _load(module: str, name: str) -> Verb:
    verbs: Mapping[str, Verb] = importlib.import_module(f"pytest_rootfs.cli.{module}").VERBS
    return verbs[name]


def _outer_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pytest-rootfs",
        description="Look into the containers of failed tests, and run containers by hand.",
        epilog="ID is the short id of a failure, a unique part of its node id, or `last`.",
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for group in GROUPS.values():
        for name, line in group.items():
            verbs.add_parser(name, help=line, add_help=False)
    return parser


def _status_of(error: RootfsError) -> int:
    if isinstance(error, (NotFound, FailureNotFound, FilesNotKept, ImageNotFound)):
        return NOT_FOUND
    return USAGE if isinstance(error, FailureAmbiguous) else FAILED


def _print_error(what: str, detail: str = "", hint: str = "") -> None:
    texts = [f"error: {what}", detail, f"hint: {hint}" if hint else ""]
    for line in "\n".join(text for text in texts if text).split("\n"):
        print(safe(line), file=sys.stderr)
