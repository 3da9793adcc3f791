"""Recipes as people write them, and what they are told when they err."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_rootfs.errors import RecipeError
from pytest_rootfs.image import Image
from pytest_rootfs.image.recipes import read_recipe


def recipe(folder: Path, text: str) -> Path:
    path = folder / "app.toml"
    path.write_text(text)
    return path


def test_verbs_mean_what_python_means(tmp_path: Path) -> None:
    path = recipe(
        tmp_path,
        """
        from = "minimal"
        description = "an app"
        [[step]]
        copy = ["dist/app", "/opt/app"]
        ignore = ["*.pyc"]
        [[step]]
        copy = { source = "x", target = "/y", mode = "600" }
        [[step]]
        file = ["/etc/app.conf", "debug=1\\n"]
        mode = 0o600
        [[step]]
        run = ["/opt/app/setup"]
        network = true
        [[step]]
        run = "echo hello"
        [[step]]
        add_binary = "/usr/bin/git"
        [[step]]
        env = { APP = "1" }
        [[step]]
        label = { team = "x" }
        [[step]]
        workdir = "/opt/app"
        [[step]]
        user = "1000:1000"
        [[step]]
        entrypoint = ["/opt/app/run"]
        """,
    )

    image = read_recipe(path)

    assert image == (
        Image("minimal")
        .copy(tmp_path / "dist/app", "/opt/app", ignore=["*.pyc"])
        .copy(tmp_path / "x", "/y", mode=0o600)
        .file("/etc/app.conf", "debug=1\n", mode=0o600)
        .run(["/opt/app/setup"], network=True)
        .run("echo hello")
        .add_binary("/usr/bin/git")
        .env(APP="1")
        .label(team="x")
        .workdir("/opt/app")
        .user("1000:1000")
        .entrypoint(["/opt/app/run"])
    )
    assert image.name == "app"


@pytest.mark.parametrize(
    ("text", "complaint", "hint"),
    [
        ("from = ", "is not valid TOML", "toml.io"),
        ("", "from=None is not the name of an image", 'from = "minimal"'),
        ("from = 1", "from=1 is not the name of an image", ""),
        ('form = "minimal"', "unknown key form='minimal'", "did you mean 'from'?"),
        ('from = "x"\nstep = 1', "`step` is not a list of tables", "[[step]]"),
        ('from = "x"\n[[step]]\ncoppy = ["a", "/b"]', "step 1: has no known verb: 'coppy'", "copy"),
        ('from = "x"\n[[step]]\n', "step 1: is empty", "accepted: add_binary"),
        ('from = "x"\n[[step]]\nrun = "a"\nuser = "b"', "step 1: has the verbs run and user", ""),
        ('from = "x"\n[[step]]\nrun = "a"\nnetwrk = true', "unknown key netwrk=True", "'network'"),
        ('from = "x"\n[[step]]\ncopy = "a"', "copy='a' has no source and no target", "[SOURCE"),
        (
            'from = "x"\n[[step]]\nrun="a"\n[[step]]\ncopy = { source = "a", traget = "/b" }',
            "step 2: unknown key traget='/b'",
            "did you mean 'target'?",
        ),
        (
            'from = "x"\n[[step]]\nfile = "/etc/x"\ncontent = "y"',
            "step 1: content beside file='/etc/x'",
            "write file = [PATH, CONTENT] or file = { path = PATH, content = CONTENT }",
        ),
        ('from = "x"\n[[step]]\nfile = ["etc", ""]', "step 1: file: path='etc'", "full path"),
        ('from = "x"\n[[step]]\nenv = { A = 1 }', "step 1: env: A=1 is not a string", 'A="1"'),
        ('from = "x"\n[[step]]\nenv = "A=1"', "step 1: 'A=1' is not a table", "NAME"),
        ('from = "x"\n[[step]]\nlayout = "split"', "layout='split' is unknown", "merged-usr"),
        ('from = "x"\n[[step]]\nrun = 5', "step 1: run: command=5 is not a list", ""),
        ('from = "x"\n[[step]]\nrun = { network = true }', "has no command", "write run = COMMAND"),
        ('from = "x"\n[[step]]\nlayout = {}', "step 1: layout={} has no kind", "layout = KIND"),
        ('from = "x"\n[[step]]\nadd_binary = 5', "path=5 is not a path of the host", ""),
        (
            'from = "x"\n[[step]]\ncopy = { source = 5, target = "/b" }',
            "source=5 is not a path of the host",
            "",
        ),
        (
            'from = "x"\n[[step]]\nfile = { path = "/x", content = "y" }\ncontent = "z"',
            "step 1: content is given twice, in the table and beside it",
            "",
        ),
        ('from = "x"\n[[step]]\nenv = { A = "1" }\nmode = 5', "unknown key mode=5", "none"),
    ],
)
def test_mistake_is_located(tmp_path: Path, text: str, complaint: str, hint: str) -> None:
    path = recipe(tmp_path, text)

    with pytest.raises(RecipeError) as caught:
        read_recipe(path)

    assert str(path) in caught.value.what
    assert complaint in caught.value.what
    assert hint in caught.value.hint


def test_unreadable_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"cannot read recipe .*nowhere\.toml"):
        read_recipe(tmp_path / "nowhere.toml")


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "app.toml"
    path.write_bytes(b'from = "\xff"')

    with pytest.raises(RecipeError, match="is not valid TOML"):
        read_recipe(path)
