"""The pytest plugin `rootfs`: options, the mark, reports. The work is in classes without pytest.

Imported by every pytest run where the package is installed, so it imports next to nothing: what a
container needs comes with the first container.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Generator, Mapping
from typing import Any

import pytest

from pytest_rootfs.options import OPTIONS, Settings, Sources
from pytest_rootfs.session import Session

SESSION = pytest.StashKey[Session]()
_RUNS: list[pytest.Config] = []
"""The runs of pytest in this process, the innermost last: `pytester` runs one in another."""

DEFAULT_IMAGE_FIXTURE = "_rootfs_default_image"
STORE_FIXTURES = {DEFAULT_IMAGE_FIXTURE, "image_builder"}
NOTE_KEY = "rootfs_failure"  # as in `attempts`, which no suite without containers imports
MARK = (
    "container(image=None, *, user, workdir, env, hostname, memory, cpus, pids, disk, timeout, "
    "network, mounts, tmpfs, readonly, capabilities, keep): how the container of the fixture "
    "`container` is made; the closest mark wins, key by key"
)


# Options, start and end.


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options and their ini keys, all in one group."""
    group = parser.getgroup("rootfs", "container rootfs (pytest-rootfs)")
    for option in OPTIONS:
        form: dict[str, Any] = {"dest": option.key, "help": option.about}  # Any: for argparse
        if option.kind == "flag":
            form["action"] = "store_true"
        elif option.choices:
            form["choices"] = option.choices
        else:
            form["metavar"] = option.metavar
        if option.kind == "list":
            form["action"] = "append"
        if option.on_command_line:
            group.addoption(option.flag, **form)
        if option.in_ini:
            kind: Any = option.ini_type  # Any: pytest's Literal of the types is private
            parser.addini(option.key, option.about, type=kind, default=None)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare the hooks that we call."""
    from pytest_rootfs import hooks  # noqa: PLC0415  imported by this hook only

    pluginmanager.add_hookspecs(hooks)


def pytest_configure(config: pytest.Config) -> None:
    """Check all options; start nothing."""
    config.addinivalue_line("markers", MARK)
    try:
        settings = Settings(_sources(config))
    except (TypeError, ValueError) as error:  # TypeError: pytest < 9.2, a number in [tool.pytest]
        raise pytest.UsageError(str(error)) from None
    if settings.shell and _distributes(config):
        raise pytest.UsageError(
            "--rootfs-shell is incompatible with distributing tests; try using -n0"
        )
    session = config.stash[SESSION] = Session(
        settings, config=config, warn=_warn, begin_use=lambda: _register_late(config)
    )
    config.add_cleanup(session.close)
    if _is_worker(config):
        config.pluginmanager.register(_Worker(), "rootfs.worker")
    elif _distributes(config):  # its workers have the containers
        _register_late(config)


def enter(config: pytest.Config) -> None:
    """Note a run of pytest for `running`, until it ends."""
    _RUNS.append(config)
    config.add_cleanup(lambda: _RUNS.remove(config))


def running() -> pytest.Config:
    """Return the config of the run of pytest that is under way, for who is given none.

    A fixture could ask for `request`, but each time pytest makes a new one, with the signature of
    a new function: four a test were a fifth of what a container executes here.
    """
    return _RUNS[-1]


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say how containers run here; only what is known at once."""
    return config.stash[SESSION].header()


# Collection.


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run every test of the default image on each, when the user gives several."""
    images = metafunc.config.stash[SESSION].settings.images
    if len(images) < 2 or not _asks_for_default_image(metafunc):
        return
    item = metafunc.definition
    if _check_marks(item, _telling_marks(item)).get("image") is None:  # its own is one image
        metafunc.parametrize(
            DEFAULT_IMAGE_FIXTURE, images, indirect=True, ids=images, scope="session"
        )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Check the marks of the tests that were just collected."""
    report = yield
    try:
        checked: list[pytest.Mark] = []
        for item in report.result:
            if isinstance(item, pytest.Item) and (marks := _telling_marks(item)) != checked:
                _check_marks(item, marks)
                checked = marks  # of a parametrised test 10 000 items may have the same
    except pytest.UsageError as error:
        if not _is_worker(collector.config):
            raise
        # xdist loses what a worker raises while it collects, but not a report that failed.
        report.outcome, report.longrepr, report.result = "failed", str(error), []
        _mark_usage_error(report, str(error))
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """Refuse a store or a default image that cannot be used once, before the first test."""
    enter(session.config)  # not at its configuration: some configs never run
    if not _is_worker(session.config) and (message := _find_mistake(session)):
        raise pytest.UsageError(message)


# Running and reporting.


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Note which test runs, before its first fixture is set up."""
    item.config.stash[SESSION].begin(item)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep, while they live, the containers of a test of which a phase has failed."""
    ours = item.config.stash[SESSION]
    if call.excinfo is None:
        report = yield
    else:
        from pytest_rootfs import tracebacks  # noqa: PLC0415  what raises only

        if ours.settings.unsupported == "skip":
            _skip_unsupported(call)
        with tracebacks.own_frames_hidden(call.excinfo.value):
            report = yield
        tracebacks.drop_remark(report)
    ours.observe(report, lambda: _message(report))
    if ours.secrets:
        from pytest_rootfs import tracebacks  # noqa: PLC0415  a container with secrets only

        tracebacks.hide_secrets(report, ours.secrets)
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Show how `container.changes()` differs from what a test expects."""
    changeset = sys.modules.get("pytest_rootfs.changeset")
    if changeset is None or op != "==":
        return None
    if not isinstance(left, Mapping) or not isinstance(right, Mapping):
        return None
    if not isinstance(left, changeset.Changes) and not isinstance(right, changeset.Changes):
        return None
    from pytest_rootfs import report  # noqa: PLC0415  a failed assert only

    if isinstance(left, changeset.Changes):
        return report.explain_changes(left, right)
    return report.explain_changes(right, left)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Hear of a kept failure, whoever has kept it: this process, a fork or a worker of xdist."""
    if (note := vars(report).get(NOTE_KEY)) is None or _is_worker(config := running()):
        return
    _register_late(config)
    config.stash[SESSION].summary.note(note)


class _Worker:
    """What only a worker of xdist does, for its controller."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Tell the controller, which has no tests of its own, what `pytest_runtestloop` finds."""
        if not (message := _find_mistake(session)):
            return
        report = pytest.CollectReport(session.nodeid, "failed", message, [])
        _mark_usage_error(report, message)
        session.config.hook.pytest_collectreport(report=report)


def _register_late(config: pytest.Config) -> None:
    """Register what only runs with containers need, with the first one that is asked for."""
    from pytest_rootfs import late_hooks  # noqa: PLC0415  not before it is needed

    late_hooks.register(config, config.stash[SESSION])


# Details.


def _sources(config: pytest.Config) -> Sources:
    here = config.invocation_params.dir
    return Sources(
        option=lambda name: config.getoption(name, None),
        ini=config.getini,
        environ=os.environ,
        rootdir=config.rootpath,
        ini_dir=config.inipath.parent if config.inipath is not None else here,
        invocation_dir=here,
    )


def _distributes(config: pytest.Config) -> bool:
    return getattr(config.option, "dist", "no") != "no"


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def _mark_usage_error(report: pytest.CollectReport, message: str) -> None:
    """Have the controller of xdist raise what one of its workers found."""
    from pytest_rootfs.late_hooks import USAGE_KEY  # noqa: PLC0415  a mistake under xdist only

    vars(report)[USAGE_KEY] = message


def _warn(message: str) -> None:
    warnings.warn(pytest.PytestWarning(message), stacklevel=2)


def _asks_for_default_image(metafunc: pytest.Metafunc) -> bool:
    """Tell whether the default image is among the fixtures of a test, however indirectly."""
    if DEFAULT_IMAGE_FIXTURE in metafunc.fixturenames:
        return True
    # pytest < 9.1 leaves out what a fixture needs that is overridden by one that asks for it.
    overrides = getattr(metafunc, "_arg2fixturedefs", {}).get("rootfs_image", ())
    for fixture in reversed(overrides):
        if DEFAULT_IMAGE_FIXTURE in fixture.argnames:
            metafunc.fixturenames.append(DEFAULT_IMAGE_FIXTURE)
            return True
        if "rootfs_image" not in fixture.argnames:
            return False
    return False


def _find_mistake(session: pytest.Session) -> str:
    """Return what is wrong with the store or the default images, if a test is about to use them."""
    config, ours = session.config, session.config.stash[SESSION]
    asked = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    only_looks = config.option.collectonly or getattr(config.option, "setupplan", False)
    if only_looks or not asked & STORE_FIXTURES:
        return ""
    from pytest_rootfs.errors import HostUnsupported, RootfsError  # noqa: PLC0415  now it is used

    option = ""
    try:
        ours.open_store()
        option = "--rootfs-image (or rootfs_image): "
        for reference in ours.settings.images if DEFAULT_IMAGE_FIXTURE in asked else ():
            ours.resolve(reference)
    except HostUnsupported:
        return ""  # the tests themselves skip or fail, as --rootfs-unsupported says
    except RootfsError as error:
        return f"{option}{error}"
    return ""


def _telling_marks(item: pytest.Item) -> list[pytest.Mark]:
    """Return a test's marks, but for bare ones: those are often another suite's label."""
    return [mark for mark in item.iter_markers("container") if mark.args or mark.kwargs]


def _check_marks(item: pytest.Item, said: list[pytest.Mark]) -> dict[str, object]:
    """Return the merged keywords of a test's marks; raises `UsageError` naming the test."""
    if not said:
        return {}
    from pytest_rootfs import marks  # noqa: PLC0415  marked tests only

    try:
        keywords = marks.merge(said)
        marks.split(keywords, None)
    except (TypeError, ValueError) as error:
        raise pytest.UsageError(f"{item.nodeid}: mark container: {error}") from None
    return keywords


def _skip_unsupported(call: pytest.CallInfo[None]) -> None:
    """Turn "this host cannot run containers" into a skip; a missing limit stays an error."""
    errors = sys.modules.get("pytest_rootfs.errors")
    if errors is None or call.excinfo is None or call.when not in ("setup", "call"):
        return
    error = call.excinfo.value
    if isinstance(error, errors.HostUnsupported) and not isinstance(error, errors.LimitUnavailable):
        try:
            pytest.skip(f"{error.what}; {error.hint}" if error.hint else error.what)
        except pytest.skip.Exception:
            call.excinfo = pytest.ExceptionInfo.from_current()


def _message(report: pytest.TestReport) -> str:
    """Return what went wrong as the short test summary has it, in full."""
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message) if crash is not None else report.longreprtext
