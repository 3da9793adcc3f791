"""`rerun`: the test of a failure once more, by pytest."""

from __future__ import annotations

import argparse
import os
import sys

from pytest_rootfs.cli.output import note
from pytest_rootfs.cli.sessions import find_failure, open_store, store_root
from pytest_rootfs.cli.verbs import NotFound, Verb, add_failure
from pytest_rootfs.failure_start import require_files
from pytest_rootfs.failures import Failure

# As the script `pytest` does it: `python -m` and `-c` would put the current folder into sys.path,
# and a test that finds its imports by that may pass here and fail there.
_PYTEST = (
    "import sys\n"
    "if sys.path[:1] == ['']: del sys.path[0]\n"
    "import pytest\n"
    "sys.argv[0] = 'pytest'\n"
    "sys.exit(pytest.main())"
)


def _configure(parser: argparse.ArgumentParser) -> None:
    add_failure(parser)
    parser.add_argument(
        "--from-failure",
        action="store_true",
        help="start the test's containers from the kept files instead of from their images",
    )
    parser.add_argument(
        "command",
        metavar="[-- OPTIONS]",
        nargs=argparse.REMAINDER,
        help="options for pytest, such as -- --pdb -x",
    )


def _rerun(args: argparse.Namespace) -> int:
    with open_store(args) as store:
        failure = find_failure(store, args.failure)
    if args.from_failure:
        require_files(failure, failure.main)
    if not os.path.isdir(failure.rootdir):
        raise NotFound(
            f"the project of failure {failure.id} is not here any more: {failure.rootdir}",
            hint=f"its files are: pytest-rootfs shell {failure.id}",
        )
    # in one word: of two, pytest takes a folder for one of tests, and looks there for its ini file
    options = [f"--rootfs-store={store_root(args)}", *_images(failure), *args.command]
    if args.from_failure:
        options.append(f"--rootfs-from-failure={failure.id}")
    where = "from its kept files" if args.from_failure else "on a fresh image"
    note(f"{failure.nodeid} {where}, in {failure.rootdir}")
    sys.stdout.flush()
    os.chdir(failure.rootdir)
    # exec: the terminal, signals and the exit status are pytest's own
    words = [f"--rootdir={failure.rootdir}", *options, failure.nodeid]
    os.execv(sys.executable, [sys.executable, "-c", _PYTEST, *words])


def _images(failure: Failure) -> list[str]:
    """Return the options that give the test its images, and with several its node id, again."""
    return [f"--rootfs-image={image}" for image in failure.images]


VERBS = {
    "rerun": Verb(
        description="Run the test of a failure once more, by pytest in its project, and exit with "
        "pytest's status.\nWith --from-failure its containers start from the kept files; what "
        "changes is then counted\nfrom there.",
        configure=_configure,
        act=_rerun,
        examples=("rerun last", "rerun f3a9c1 --from-failure -- --pdb"),
        command_after="failure",
    ),
}
