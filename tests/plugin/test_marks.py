"""The mark `container`: merging, and what is refused before any test runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from features import needs

from pytest_rootfs import marks
from pytest_rootfs.image import Image
from pytest_rootfs.runtime.spec import ContainerOptions


def mark(*args: object, **keywords: object) -> pytest.Mark:
    return pytest.mark.container(*args, **keywords).mark


def test_closest_mark_wins_key_by_key() -> None:
    close, far = mark(memory="1M", user="me"), mark("busybox", memory="2M", pids=3)

    merged = marks.merge([close, far])

    assert merged == {"image": "busybox", "memory": "1M", "user": "me", "pids": 3}


def test_none_gives_a_key_back() -> None:
    assert marks.merge([mark(memory=None), mark(memory="2M")]) == {}


def test_split_parts_the_keywords() -> None:
    image = Image("minimal")

    found = marks.split({"image": image, "keep": "all", "pids": 3}, None)

    assert found == (image, "all", ContainerOptions(pids=3))


def test_split_applies_defaults() -> None:
    found = marks.split({"pids": 3}, ContainerOptions(pids=9, memory=1 << 20))

    assert found == (None, None, ContainerOptions(pids=3, memory=1 << 20))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("memroy='1M'", "unknown keyword 'memroy', did you mean 'memory'?*accepted are image, *"),
        ("zzz=1", "unknown keyword 'zzz'; accepted are image, *"),
        ("inside=True", "inside=… is not available yet"),
        ("'a', 'b'", "the mark takes one positional argument, the image, not 2: 'a', 'b'"),
        ("'a', image='b'", "the image is given twice*"),
        ("image=5", "image=5 is neither an Image nor the name of one"),
        ("image=''", "image='' is neither an Image nor the name of one"),
        ("memory='lots'", "memory='lots' is not a size*"),
        ("memory=0", "memory=0 is out of range*"),
        ("cpus=-1", "cpus=-1 is not a number of cores above zero"),
        ("pids=0", "pids=0 is not a count*"),
        ("timeout='soon'", "timeout='soon' is not a number of seconds above zero"),
        ("network='bridge'", "network='bridge' is not a network*"),
        ("keep='some'", "keep='some' is not one of failed, all, none"),
        ("mounts=[('/a',)]", "mounts has ('/a',)*"),
        ("env=['A']", "env=?'A'? is not a mapping*"),
        ("readonly='yes'", "readonly='yes' is not True or False"),
    ],
)
def test_bad_mark_is_a_usage_error(pytester: pytest.Pytester, arguments: str, says: str) -> None:
    pytester.makepyfile(
        test_it=f"""
        import pytest

        @pytest.mark.container({arguments})
        def test_marked(): pass
        """
    )

    result = pytester.runpytest_subprocess()

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: test_it.py::test_marked: mark container: {says}"])


def test_relative_mounts_start_at_rootdir() -> None:
    keywords = {"mounts": [("dist", "/a"), (Path("/abs"), "/b", "rw"), "bad"], "pids": 3}

    assert marks.with_rooted_mounts(keywords, Path("/project")) == {
        "mounts": [(Path("/project/dist"), "/a"), (Path("/abs"), "/b", "rw"), "bad"],
        "pids": 3,
    }


@needs("userns")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("'no-such-image'", "*ImageNotFound: no image is named 'no-such-image'"),
        ("mounts=[('/nonexistent', '/x')]", "*: cannot mount /nonexistent: No such file*"),
    ],
)
def test_mistake_in_a_mark_is_a_sentence(
    pytester: pytest.Pytester, arguments: str, sentence: str
) -> None:
    pytester.makepyfile(
        f"""
        import pytest
        @pytest.mark.container({arguments})
        def test_marked(container): pass
        """
    )

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"E  {sentence}"])
    for noise in ("*hidden*", "*Error: *Errno*", "*def *"):
        result.stdout.no_fnmatch_line(noise)


@needs("userns")
def test_mounts_in_marks_are_the_projects(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makeini("[pytest]")
    (pytester.mkdir("dist") / "app").write_text("built")
    pytester.makepyfile(
        """
        import pytest
        @pytest.mark.container(mounts=[("dist", "/src")])
        def test_it(container): assert container.path("/src/app").read_text() == "built"
        """
    )
    monkeypatch.chdir(pytester.mkdir("elsewhere"))

    pytester.runpytest_subprocess("--rootdir", "..", "..").assert_outcomes(passed=1)


def test_bad_mark_is_a_usage_error_under_xdist(pytester: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    pytester.makepyfile(
        test_it="""
        import pytest
        pytestmark = pytest.mark.container(memroy="1M")
        def test_one(): pass
        """
    )

    result = pytester.runpytest_subprocess("-n", "2")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: test_it.py::test_one: mark container: *'memory'?*"])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


def test_label_marks_change_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        pytestmark = [pytest.mark.container, pytest.mark.container("postgres", inside=False)]

        class Test:
            @pytest.mark.container(keep="none")
            def test_method(self): pass
        """
    )

    result = pytester.runpytest_subprocess("--strict-markers", "-W", "error")

    result.assert_outcomes(passed=1)


def test_mark_is_registered(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("--markers")

    result.stdout.fnmatch_lines(["@pytest.mark.container(image=None, ?, user, *"])


def test_empty_source_of_a_mount_is_no_rootdir() -> None:
    keywords = {"mounts": [("", "/data")]}

    assert marks.with_rooted_mounts(keywords, Path("/project")) == keywords
