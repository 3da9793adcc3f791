"""What a verb is, and what several verbs share in their arguments."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pytest_rootfs.errors import RootfsError


class NotFound(RootfsError):
    """What a verb was asked for does not exist; exit status 3."""


class UsageError(Exception):
    """The words of the command line do not go together; exit status 2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """One verb: its help text, its arguments, the function that does it, and lines to type.

    `act` returns the exit status. With `command_after`, the name of its only other positional
    argument, a verb takes a command at the end of its line.
    """

    description: str
    configure: Callable[[argparse.ArgumentParser], None]
    act: Callable[[argparse.Namespace], int]
    examples: Sequence[str] = ()
    command_after: str = ""

    def parse(
        self, parser: argparse.ArgumentParser, arguments: Sequence[str]
    ) -> argparse.Namespace:
        """Parse the words after the verb; exits with status 2 on wrong usage."""
        if not self.command_after:
            return parser.parse_args(arguments)
        # argparse has changed its mind about `--` several times (3.12.5, 3.13): split by hand
        words = list(arguments)
        split = words.index("--") if "--" in words else len(words)
        parsed = parser.parse_args(words[:split])
        if not parsed.command:
            parsed.command = words[split + 1 :]
        elif not parsed.command[0].startswith("-"):
            parsed.command += words[split:]
        else:
            parsed = self._parse_options_after(parser, parsed)
            parsed.command = words[split + 1 :]
        return parsed

    def _parse_options_after(
        self, parser: argparse.ArgumentParser, parsed: argparse.Namespace
    ) -> argparse.Namespace:
        """Parse `REF --option value`, which the rest-of-line argument has swallowed."""
        subject = getattr(parsed, self.command_after)
        again = parser.parse_args([*parsed.command, subject], namespace=parsed)
        if getattr(again, self.command_after) != subject or again.command:
            parser.error(f"put `--` before the command, or the options before {subject}")
        return again


def add_failure(parser: argparse.ArgumentParser) -> None:
    """Add the argument that names a failure."""
    parser.add_argument(
        "failure", metavar="ID", help="short id, unique part of a node id, or `last`"
    )


def add_container(parser: argparse.ArgumentParser) -> None:
    """Add the option that picks one of several containers of a failed test."""
    parser.add_argument(
        "-c",
        "--container",
        metavar="NAME",
        help="which container, if the test used several (default: the first)",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help="print JSON for other programs")


def add_command(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Add the command at the end of the line."""
    parser.add_argument(
        "command",
        metavar="-- COMMAND" if required else "[-- COMMAND]",
        nargs=argparse.REMAINDER,
        help="the program and its arguments",
    )
