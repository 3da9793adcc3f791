"""Hooks of pytest that only runs with containers need, and the controller of xdist.

`plugin` registers them when it comes to that, as each hook takes a tenth of a millisecond of every
run of pytest where the package is installed.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

from pytest_rootfs.session import Session

if TYPE_CHECKING:
    import pdb  # noqa: T100  for its type

    from pytest_rootfs.runtime.container import Container

NAME = "rootfs.late"
USAGE_KEY = "rootfs_usage_error"
"""The attribute of a report that carries a usage error from an xdist worker to the controller."""


def register(config: pytest.Config, session: Session) -> None:
    """Register the hooks; idempotent. Under xdist, only the controller writes the report."""
    plugins = config.pluginmanager
    if plugins.has_plugin(NAME):
        return
    plugins.register(_Containers(session), NAME)
    if session.settings.shell:
        plugins.register(_Shell(session), "rootfs.shell")
    if not hasattr(config, "workerinput"):
        plugins.register(_Summary(session), "rootfs.summary")


class _Containers:
    """What a run with containers needs."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @pytest.hookimpl(trylast=True)  # after the fixtures of an interrupted session are torn down
    def pytest_sessionfinish(self) -> None:
        """Close every container."""
        self._session.close()

    @pytest.hookimpl(tryfirst=True)
    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Let pytest show where it was interrupted, wherever that was."""
        from pytest_rootfs import tracebacks  # noqa: PLC0415  interrupted sessions only

        tracebacks.give_lines(excinfo.value)

    def pytest_enter_pdb(self, config: pytest.Config, pdb: pdb.Pdb) -> None:
        """Offer a shell in the live container as a command of the debugger."""
        container = self._session.live_container()
        if container is None:
            return

        def do_rootfs_shell(_: str) -> None:
            """rootfs_shell: open a shell in the live container of the test."""
            _interact(container)

        vars(pdb)["do_rootfs_shell"] = do_rootfs_shell
        writer = config.get_terminal_writer()
        writer.line(f"rootfs: `rootfs_shell` opens a shell in the live container {container.name}")


class _Shell:
    """What `--rootfs-shell` asks for."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @pytest.hookimpl(trylast=True)  # after the debugger, and what a conftest does at a failure
    def pytest_exception_interact(
        self,
        node: pytest.Item | pytest.Collector,
        report: pytest.CollectReport | pytest.TestReport,
    ) -> None:
        """Open a shell in the live container, before its teardown."""
        container = self._session.live_container()
        if container is None:
            return
        if capture := node.config.pluginmanager.getplugin("capturemanager"):
            capture.suspend_global_capture(in_=True)  # resumed by the next phase, as after --pdb
        writer = node.config.get_terminal_writer()
        writer.line()
        report.toterminal(writer)
        writer.sep(">", f"shell in container {container.name}; `exit` goes on with the session")
        _interact(container)


class _Summary:
    """What only the process that writes the report does."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @pytest.hookimpl(tryfirst=True)
    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Raise the usage error that an xdist worker found."""
        if (message := vars(report).get(USAGE_KEY)) is not None:
            raise pytest.UsageError(message)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Remove the oldest failures beyond what is to be kept; the workers have ended."""
        if self._session.has_summary:
            self._session.summary.finish()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter
    ) -> Generator[None, None, None]:
        """End the summary with a line a kept failure."""
        yield
        if terminalreporter.config.option.no_summary or not self._session.has_summary:
            return
        if lines := self._session.summary.lines():
            terminalreporter.section(self._session.summary.title(), cyan=True)
            for line in lines:
                terminalreporter.line(line)


def _interact(container: Container) -> None:
    """Run a shell in a container with this terminal, if the image has one."""
    from pytest_rootfs import terminals  # noqa: PLC0415  only when somebody wants a shell
    from pytest_rootfs.errors import RootfsError  # noqa: PLC0415  as above

    try:
        task = terminals.Task(
            command=[terminals.find_shell(container)],
            env=terminals.prompt_environment(container.name),
            with_tty=sys.stdin.isatty(),
        )
        terminals.interact(container, task)
    except RootfsError as error:
        sys.stdout.write(f"{error}\n")
