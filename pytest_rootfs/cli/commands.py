"""`shell`, `exec`, `run`: commands in containers that are thrown away at the end."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pytest_rootfs import failure_start
from pytest_rootfs.cli import host_shells
from pytest_rootfs.cli.output import note
from pytest_rootfs.cli.sessions import failed_container, open_engine
from pytest_rootfs.cli.verbs import UsageError, Verb, add_command, add_container, add_failure
from pytest_rootfs.errors import RootfsError

if TYPE_CHECKING:
    from pytest_rootfs.failures import Failure, KeptContainer
    from pytest_rootfs.runtime.container import Container


def _configure_shell(parser: argparse.ArgumentParser) -> None:
    add_failure(parser)
    add_container(parser)
    parser.add_argument("--user", metavar="USER", help="default: the test's")
    parser.add_argument(
        "--shell",
        metavar="PROGRAM",
        help="a program of this host instead of the image's shell, such as bash or 'busybox sh'; "
        "it is shown in the container read-only, with its libraries",
    )


def _shell(args: argparse.Namespace) -> int:
    from pytest_rootfs import terminals  # noqa: PLC0415  termios and threads for these verbs only

    lent = host_shells.lend(args.shell) if args.shell is not None else None
    mounts = lent.mounts if lent else ()
    with failed_container(args, mounts=mounts, **_overrides(args)) as (failure, kept, container):
        command = lent.command if lent else [_image_shell(container, failure)]
        label = failure.id if len(failure.containers) == 1 else f"{failure.id} {kept.name}"
        if with_tty := _on_terminal():
            _greet(failure, kept)
        _tell_lost(kept, ())
        env = {**terminals.prompt_environment(label), **_terminal_environment(with_tty=with_tty)}
        task = terminals.Task(command=command, env=env, with_tty=with_tty)
        return terminals.interact(container, task)


def _image_shell(container: Container, failure: Failure) -> str:
    from pytest_rootfs import terminals  # noqa: PLC0415  as above

    return terminals.find_shell(
        container, hint=f"bring one of this host: pytest-rootfs shell {failure.id} --shell bash"
    )


def _greet(failure: Failure, kept: KeptContainer) -> None:
    user = "root" if kept.user == "0" else f"user {kept.user}"
    note(
        f"the files of {failure.nodeid} as they were at the end of {failure.when}, "
        f"as {user} in {kept.workdir}; changes are thrown away on exit"
    )


def _tell_lost(kept: KeptContainer, given: Collection[str]) -> None:
    """Say which of the test's variables are not set, unless they were given anew."""
    if names := [name for name in failure_start.lost_env(kept) if name not in given]:
        note(f"not set, as secrets are not kept: {', '.join(names)}; `exec --env NAME=VALUE` gives")


def _configure_exec(parser: argparse.ArgumentParser) -> None:
    add_failure(parser)
    add_container(parser)
    parser.add_argument("--user", metavar="USER", help="default: the test's")
    parser.add_argument("--workdir", metavar="DIR", help="default: the test's")
    parser.add_argument("--env", metavar="NAME=VALUE", action="append", default=[])
    add_command(parser, required=True)


def _exec(args: argparse.Namespace) -> int:
    from pytest_rootfs import terminals  # noqa: PLC0415  as above

    if not args.command:
        raise UsageError("give a command after `--`")
    with failed_container(args, **_overrides(args)) as (_, kept, container):
        _tell_lost(kept, _pairs(args.env))
        with_tty = _on_terminal()
        env = {**_pairs(args.env), **_terminal_environment(with_tty=with_tty)}
        task = terminals.Task(command=args.command, env=env, with_tty=with_tty)
        return _finished(container, terminals.interact(container, task))


def _configure_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="REF", help="an image reference, such as minimal")
    limits = parser.add_argument_group("limits")
    limits.add_argument("--memory", metavar="SIZE", help="such as 64M")
    limits.add_argument("--cpus", metavar="CORES", type=float, help="0.5 is half a core")
    limits.add_argument("--pids", metavar="COUNT", type=int, help="processes and threads")
    limits.add_argument("--disk", metavar="SIZE", help="what may be written")
    limits.add_argument("--timeout", metavar="SECONDS", type=float, help="status 124 beyond it")
    files = parser.add_argument_group("files")
    files.add_argument(
        "--mount", metavar="SRC:DST[:rw]", action="append", default=[], help="read-only by default"
    )
    files.add_argument("--tmpfs", metavar="PATH[:SIZE]", action="append", default=[])
    files.add_argument("--readonly", action="store_true", help="the root file system, too")
    process = parser.add_argument_group("process")
    process.add_argument("--env", metavar="NAME=VALUE", action="append", default=[])
    process.add_argument("--user", metavar="USER[:GROUP]")
    process.add_argument("--workdir", metavar="DIR")
    process.add_argument("--hostname", metavar="NAME")
    process.add_argument("--network", choices=["none", "host"])
    process.add_argument("-i", "--interactive", action="store_true", help="pass standard input on")
    process.add_argument("-t", "--tty", action="store_true", help="give the command a terminal")
    parser.add_argument(
        "--explain",
        action="store_true",
        help="print the steps that start the container; run nothing",
    )
    add_command(parser, required=False)


def _run(args: argparse.Namespace) -> int:
    from pytest_rootfs import terminals  # noqa: PLC0415  as above
    from pytest_rootfs.runtime.spec import ContainerOptions  # noqa: PLC0415  as above

    if args.tty and not os.isatty(0):
        raise UsageError("-t needs a terminal, and standard input is none")
    try:
        options = ContainerOptions.from_keywords(_keywords(args), defaults=None)
    except ValueError as error:
        raise UsageError(str(error)) from error
    with open_engine(args) as engine:
        if args.explain:
            for line in engine.explain(args.image, options=options):
                print(line)
            return 0
        container = engine.start(args.image, options=options)
        task = terminals.Task(
            command=args.command or _default_command(container),
            env=_terminal_environment(with_tty=args.tty),
            timeout_s=args.timeout,
            with_input=args.interactive,
            with_tty=args.tty,
        )
        return _finished(container, terminals.interact(container, task))


def _finished(container: Container, status: int) -> int:
    """Say which limits a command that failed has hit; return its status."""
    from pytest_rootfs import terminals  # noqa: PLC0415  as above

    if status not in (0, terminals.TIMED_OUT):  # a time limit is told already
        with suppress(RootfsError):  # the container has died, and that was told
            for sentence in container.limits_hit():
                note(sentence)
    return status


def _default_command(container: Container) -> list[str]:
    """Return what the image runs by itself: entry point and arguments, else its shell."""
    from pytest_rootfs import terminals  # noqa: PLC0415  as above

    config = container.built.config
    given = [*config.entrypoint, *config.cmd]
    return given or [terminals.find_shell(container, hint="name the command to run after `--`")]


def _keywords(args: argparse.Namespace) -> Mapping[str, object]:
    """Return the mark's keywords that the options say."""
    names = ("memory", "cpus", "pids", "disk", "timeout", "user", "workdir", "hostname", "network")
    keywords = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.readonly:
        keywords["readonly"] = True
    if args.env:
        keywords["env"] = _pairs(args.env)
    if args.mount:
        keywords["mounts"] = [_mount(text) for text in args.mount]
    if args.tmpfs:
        keywords["tmpfs"] = [tuple(text.split(":")) if ":" in text else text for text in args.tmpfs]
    return keywords


def _mount(text: str) -> tuple[str, ...]:
    words = text.split(":")
    if len(words) not in (2, 3) or (len(words) == 3 and words[2] not in ("ro", "rw")):
        raise UsageError(f"--mount {text}: give SRC:DST, SRC:DST:ro or SRC:DST:rw")
    return (os.path.abspath(words[0]), *words[1:])


def _pairs(texts: list[str]) -> dict[str, str]:
    """Read NAME=VALUE; a NAME alone takes the value from our own environment, as docker does."""
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or (not equals and name not in os.environ):
            raise UsageError(
                f"--env {text}: give NAME=VALUE, or the name of a variable that is set"
            )
        pairs[name] = value if equals else os.environ[name]
    return pairs


def _overrides(args: argparse.Namespace) -> dict[str, Any]:  # Any: keywords of the mark
    names = ("user", "workdir")
    return {name: getattr(args, name) for name in names if getattr(args, name, None) is not None}


def _on_terminal() -> bool:
    return os.isatty(0) and sys.stdout.isatty()


def _terminal_environment(*, with_tty: bool) -> dict[str, str]:
    return {"TERM": os.environ.get("TERM", "xterm")} if with_tty else {}


VERBS = {
    "shell": Verb(
        description="Open the image's shell in a new container with the failed one's files, as the "
        "test's\nuser, in its folder, with its environment. Changes are thrown away on exit.",
        configure=_configure_shell,
        act=_shell,
        examples=("shell last", "shell f3a9c1 --user root", "shell last --shell 'busybox sh'"),
    ),
    "exec": Verb(
        description="Run a command in a new container with the failed one's files; exits with its "
        "status.",
        configure=_configure_exec,
        act=_exec,
        examples=("exec last -- ls -l", "exec --user root last -- sh -c 'id; pwd'"),
        command_after="failure",
    ),
    "run": Verb(
        description="Run a command in a fresh container of an image; exits with its status. "
        "Without a\ncommand the image's own, else its shell.",
        configure=_configure_run,
        act=_run,
        examples=("run minimal -- uname -a", "run -it --memory 64M --mount .:/src minimal"),
        command_after="image",
    ),
}
