"""What an `Image` accepts, and that it is a value."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pytest_rootfs.errors import RecipeError
from pytest_rootfs.image import Image
from pytest_rootfs.image.config import ImageConfig
from pytest_rootfs.image.steps import ConfigStep, CopyStep, FileStep, RunStep


def test_verbs_return_new_images() -> None:
    base = Image("minimal")

    derived = base.file("/etc/app.conf", "debug=1\n")

    assert base.steps == ()
    assert derived.steps == (FileStep(path="/etc/app.conf", content=b"debug=1\n"),)


@pytest.mark.parametrize("name", ["reference", "new"])
def test_attributes_cannot_be_set(name: str) -> None:
    image = Image("minimal")

    with pytest.raises(AttributeError, match=name):
        setattr(image, name, "1")


def test_equal_descriptions_are_equal() -> None:
    one, other = (Image("minimal").env(APP="1").run(["true"]) for _ in range(2))

    assert one == other
    assert hash(one) == hash(other)
    assert one != Image("minimal").run(["true"]).env(APP="1")


def test_name_counts_added_steps() -> None:
    image = Image("minimal").env(A="1").workdir("/srv")

    assert [Image.scratch().name, Image.host().name, image.name] == ["scratch", "host", "minimal+2"]


def test_relative_source_starts_at_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    image = Image("minimal").copy("dist/app", "/opt/app", mode="755", owner="7:8", ignore=["*.pyc"])

    expected = CopyStep(
        source=f"{tmp_path}/dist/app",
        target="/opt/app",
        mode=0o755,
        owner=(7, 8),
        ignore=("*.pyc",),
    )
    assert image.steps == (expected,)


def test_config_verbs_add_up() -> None:
    image = (
        Image("minimal")
        .env(A="1", B="2")
        .env(A="3")
        .workdir("/srv")
        .user("1000:1000")
        .entrypoint(["/bin/app"])
        .label(team="x")
    )

    config = ImageConfig(cmd=("old",))
    for step in image.steps:
        assert isinstance(step, ConfigStep)
        config = config.after(step)

    assert config == ImageConfig(
        env=("A=3", "B=2"),
        working_dir="/srv",
        user="1000:1000",
        entrypoint=("/bin/app",),
        labels=(("team", "x"),),
    )


def test_run_keeps_the_form_of_its_command() -> None:
    image = Image("minimal").run("echo $HOME > /x").run(["touch", "/y"], network=True)

    assert image.steps == (
        RunStep(command="echo $HOME > /x"),
        RunStep(command=("touch", "/y"), network=True),
    )


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda image: image.file("etc/x", ""), "path='etc/x' is not absolute"),
        (lambda image: image.file("/a/../b", ""), "path='/a/../b' holds `..`"),
        (lambda image: image.file("/a\0b", ""), "holds a NUL byte"),
        (lambda image: image.file("/etc/", ""), "path='/etc/' names a folder"),
        (lambda image: image.file("/", ""), "path='/' names a folder"),
        (lambda image: image.file("/" + "x" * 256, ""), "more than 255 bytes"),
        (lambda image: image.file("/etc/.wh.x", ""), "starts with `.wh.`"),
        (lambda image: image.file("/x", 1), "content of '/x' is int, not text"),
        (lambda image: image.file("/x", "", mode="rwx"), "mode='rwx' is not a file mode"),
        (lambda image: image.file("/x", "", mode=0o10000), "mode=4096 is not a file mode"),
        (lambda image: image.file("/x", "", owner="app"), "owner='app' is not a user id"),
        (lambda image: image.file("/x", "", owner=65536), "owner=65536 is not a user id"),
        (lambda image: image.file("/x", "", owner=(1, 2, 3)), "owner=(1, 2, 3) is not a user id"),
        (lambda image: image.copy("", "/x"), "source='' is not a path"),
        (lambda image: image.copy(5, "/x"), "source=5 is not a path"),
        (lambda image: image.add_binary(5), "path=5 is not a path"),
        (lambda image: image.copy("x", "y"), "target='y' is not absolute"),
        (lambda image: image.copy("x", "/y", ignore="*.pyc"), "ignore='*.pyc' is not a list"),
        (lambda image: image.copy("x", "/y", ignore=["a[b"]), "'a[b' has a `[` without `]`"),
        (lambda image: image.add_binary("git"), "path='git' is not absolute"),
        (lambda image: image.run(""), "command='' is empty"),
        (lambda image: image.run([]), "command=[] is empty"),
        (lambda image: image.run(["a", 1]), "command has 1, which is not a string"),
        (lambda image: image.run("x", network="yes"), "network='yes' is not true or false"),
        (lambda image: image.env(A=1), "A=1 is not a string"),
        (lambda image: image.env(**{"A=B": "1"}), "'A=B' is not a name"),
        (lambda image: image.workdir("srv"), "path='srv' is not absolute"),
        (lambda image: image.user(""), "user: '' is not USER or USER:GROUP"),
        (lambda image: image.user("a:b:c"), "user: 'a:b:c' is not USER or USER:GROUP"),
        (lambda image: image.entrypoint("sh -c"), "command='sh -c' is not a list"),
    ],
)
def test_wrong_argument_is_named(call: object, complaint: str) -> None:
    assert callable(call)

    with pytest.raises(RecipeError) as caught:
        call(Image("minimal"))

    assert complaint in caught.value.what


def test_empty_reference_is_refused() -> None:
    with pytest.raises(RecipeError, match="image '' is not a reference"):
        Image("")


def test_importing_image_is_cheap() -> None:
    code = (
        "import sys; import pytest_rootfs.image;"
        "print({'tomllib', 'tomli', 'ctypes', 'tarfile', 'json'} & set(sys.modules))"
    )
    # Its own interpreter, without the coverage and `.pth` hooks that import half the library.
    folder = Path(sys.modules["pytest_rootfs"].__file__ or "").parents[1]
    command = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        f"import sys; sys.path.insert(0, {str(folder)!r}); {code}",
    ]

    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "set()"
