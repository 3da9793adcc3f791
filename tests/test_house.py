"""Promises about the repository itself: import direction, sizes, names, packaging."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from features import needs

import pytest_rootfs
from pytest_rootfs import errors, names

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
CODE = sorted(
    path for top in ("pytest_rootfs", "fixtures", "images") for path in (ROOT / top).rglob("*.py")
)
MEASURED = [*CODE, *sorted((ROOT / "benchmarks").glob("*.py"))]
LAYERS = [  # lowest first; a module imports from layers below its own, and from its own folder
    {"errors", "settings", "globs", "names"},
    {"kernel"},
    {"secret_values", "golden"},
    {"changeset", "snapshots", "textdiff", "options"},
    {"image", "store", "runtime"},
    {"bases", "content_layers"},
    {"builder", "commits"},
    {"rw_files", "enforcement"},
    {"homes", "build_steps", "unpacking"},
    {"engine"},
    {"tracebacks"},
    {"failures", "report", "terminals", "marks", "hooks"},
    {"attempts"},
    {"keeping"},
    {"summaries", "head"},
    {"session"},
    {"late_hooks"},
    {"plugin", "cli"},
    {"fixtures", "images", "__main__"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
PLACES = [f"{ROOT.parent}/", f"{Path.home()}/."]  # of this machine; they have no business in a file


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


def layer_of(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return subject(parts[1]) if parts[0] == "pytest_rootfs" else parts[0]


def subject(module: str) -> str:
    """Return a module's layer: `failure_record.py` is of the subject `failures`."""
    name = module.removesuffix(".py")
    return "failures" if name.startswith("failure_") else name


def imports(node: ast.AST) -> Iterator[str]:
    """Yield what is imported when the code runs, not what only type checkers read."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.ImportFrom) and child.module:
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        yield from imports(child)


def layers_imported(path: Path) -> set[str]:
    names = [x for x in imports(ast.parse(path.read_bytes())) if x.startswith("pytest_rootfs.")]
    return {subject(name.split(".")[1]) for name in names} & RANK.keys()


def tops_imported(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(ast.parse(path.read_bytes()))}


def test_imports_point_down() -> None:
    wrong = [
        f"{label(path)} must not import {name}"
        for path in CODE
        for name in layers_imported(path)
        if name != layer_of(path) and RANK[name] >= RANK.get(layer_of(path), len(LAYERS))
    ]

    assert wrong == []


def test_every_module_has_a_layer() -> None:
    assert {layer_of(path) for path in CODE} - RANK.keys() == {"__init__"}


def test_design_shows_the_layers() -> None:
    section = (ROOT / "docs/design.md").read_text().partition("\n## Layers of code\n")[2]
    lines = section.split("```")[1].strip().splitlines()

    assert [set(line[:38].split()) for line in reversed(lines)] == LAYERS


def test_only_the_doors_import_pytest() -> None:
    users = {layer_of(path) for path in CODE if tops_imported(path) & {"pytest", "_pytest"}}

    assert users <= {"plugin", "fixtures", "hooks", "late_hooks"}


def test_only_syscalls_imports_ctypes() -> None:
    users = {label(path) for path in CODE if "ctypes" in tops_imported(path)}

    assert users <= {"pytest_rootfs/kernel/syscalls.py"}


def test_files_are_short() -> None:
    files = [*MEASURED, *(ROOT / "tests").rglob("*.py")]
    lengths = {label(path): path.read_text().count("\n") for path in files}

    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_functions_are_short() -> None:
    lengths = {
        f"{label(path)}: {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in MEASURED
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }

    assert {name: length for name, length in lengths.items() if length > 60} == {}


def test_modules_tell_what_they_are_for() -> None:
    assert [label(x) for x in CODE if not ast.get_docstring(ast.parse(x.read_bytes()))] == []


def test_exported_names_exist() -> None:
    for name in names.HOMES:
        assert getattr(pytest_rootfs, name).__module__.startswith("pytest_rootfs.")


def test_every_error_is_exported() -> None:
    kinds = {name for name, kind in vars(errors).items() if isinstance(kind, type)}
    ours = {name for name in kinds if issubclass(getattr(errors, name), errors.RootfsError)}

    assert ours == set(names.ERRORS)


def test_type_checkers_see_the_same_names() -> None:
    stub = ast.parse((ROOT / "pytest_rootfs/__init__.pyi").read_bytes())
    homes = {
        alias.name: node.module
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    told = next(node for node in stub.body if isinstance(node, ast.Assign)).value

    assert homes == {**names.HOMES, "errors": "pytest_rootfs"}
    assert ast.literal_eval(told) == pytest_rootfs.__all__


def test_plugin_import_is_light() -> None:
    heavy = ["ctypes", "tenacity", "pyroute2", "rich", "tarfile", "urllib3"]
    program = (
        "import sys, pytest; before = set(sys.modules);"
        "import pytest_rootfs.plugin, pytest_rootfs.fixtures;"
        f"print(*(set(sys.modules) - before) & set({heavy}))"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )

    assert done.stdout.split() == []


def test_package_import_loads_nothing() -> None:
    program = (
        f"import sys; sys.path.append({str(ROOT)!r}); before = set(sys.modules);"
        "import pytest_rootfs; print(*set(sys.modules) - before)"
    )

    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program],
        check=True,
        capture_output=True,
        text=True,
    )

    assert set(done.stdout.split()) <= {"pytest_rootfs", "__future__"}


def test_packaging_lists_every_package() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = [path.parent for path in CODE if path.name == "__init__.py"]
    mapped = {"fixtures": "pytest_rootfs.fixtures", "images": "pytest_rootfs.images"}

    expected = {".".join(path.relative_to(ROOT).parts) for path in folders}

    assert set(setuptools["packages"]) == {mapped.get(name, name) for name in expected}


def test_no_file_holds_a_path_of_this_machine() -> None:
    listed = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], check=False, capture_output=True)
    files = [ROOT / os.fsdecode(name) for name in listed.stdout.split(b"\0") if name]
    places = [place for place in PLACES if place not in {"/", "/tmp/", "/var/tmp/", "/home/"}]

    found = {
        label(path)
        for path in files
        if path.is_file() and any(x in path.read_text(errors="replace") for x in places)
    }

    assert not found


def test_todo_carries_an_issue_number() -> None:
    todo = re.compile(r"\b(?:TODO|FIXME|XXX)\b(?! ?\(?#\d+)")

    found = {label(path) for path in CODE if todo.search(path.read_text())}

    assert not found


@pytest.mark.parametrize("section", ["Run it", "Test it"])
def test_readme_section_is_one_command(section: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / ".ci/readme-command", section],
        check=False,
        capture_output=True,
        text=True,
    )

    assert done.stderr == ""
    assert (ROOT / done.stdout.split()[0]).stat().st_mode & 0o111


def test_page_of_the_package_is_short() -> None:
    """Check what pytest parses at each start, four times, where it tells which plugins it has."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert len((ROOT / project["readme"]).read_bytes()) < 2000


@pytest.mark.slow
@needs("userns")
def test_wheel_runs_a_container_test(tmp_path: Path) -> None:
    """Build the wheel, install it in a new virtual environment, run one container test there."""
    source = tmp_path / "source"  # a build writes into its source folder
    shutil.copytree(
        ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__")
    )
    environment = tmp_path / "venv"
    pip = [environment / "bin/pip", "--disable-pip-version-check", "-q"]
    (tmp_path / "test_it.py").write_text(
        "def test_it(container):\n    assert container.run(['echo', 'hi']).stdout == 'hi\\n'\n"
    )

    run(sys.executable, "-m", "venv", environment)
    run(*pip, "wheel", "--no-deps", "-w", tmp_path, source)
    run(*pip, "install", *tmp_path.glob("*.whl"))
    output = run(environment / "bin/pytest", "-q", "test_it.py", cwd=tmp_path)

    assert "1 passed" in output


def run(*argv: str | Path, cwd: Path | None = None) -> str:
    """Run a program, without options meant for this pytest, and return its output."""
    done = subprocess.run(
        argv,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cwd,
        env={key: value for key, value in os.environ.items() if key != "PYTEST_ADDOPTS"},
    )
    assert done.returncode == 0, done.stdout
    return done.stdout
