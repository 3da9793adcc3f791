"""The fixtures, as a suite uses them, on real containers."""

from __future__ import annotations

import pytest
from features import needs

pytestmark = needs("userns")


def test_container_is_fresh_for_each_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        seen = []

        def check(container):
            assert not container.path("/etc/mine").exists()
            container.path("/etc/mine").write_text("1")
            assert container.changes() == {"/etc/mine": "added"}
            seen.append(container)

        def test_one(container): check(container)
        def test_two(container): check(container)
        def test_all_are_closed():
            assert len({each.id for each in seen}) == 2
            assert all(each.is_closed for each in seen)
        """
    )

    result = pytester.runpytest_subprocess("-W", "error")

    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["rootfs: root*, cgroup *, image minimal (*)*"])


@pytest.mark.parametrize("name", ["../x", "a b", "a\nb", "x" * 70])
def test_name_that_no_host_can_have(pytester: pytest.Pytester, name: str) -> None:
    pytester.makepyfile(f"def test_it(container_factory): container_factory(name={name!r})")

    result = pytester.runpytest_subprocess()

    result.stdout.fnmatch_lines(["E  *ValueError: name=*is not a host name*"])


def test_second_name_is_the_same_object(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "def test_it(container, rootfs_container): assert container is rootfs_container"
    )

    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_container_costs_no_request(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(container): assert container")

    result = pytester.runpytest_subprocess("--setup-plan")

    used = "_rootfs_default_image, container, rootfs_image"
    result.stdout.fnmatch_lines([f"*::test_it (fixtures used: {used})"])


def test_fixtures_of_a_later_plugin_win(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("pytest_plugins = ['later']")
    pytester.makepyfile(
        later="""
        import pytest

        @pytest.fixture
        def container():
            return "other"
        """,
        test_it="def test_it(container): assert container == 'other'",
    )
    pytester.syspathinsert()

    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_mark_configures_the_container(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        pytestmark = pytest.mark.container(hostname="far", env={"A": "1"}, workdir="/tmp")

        class TestNear:
            @pytest.mark.container(hostname="near")
            def test_it(self, container):
                assert container.run("hostname; pwd; echo $A").stdout == "near\\n/tmp\\n1\\n"
        """
    )

    pytester.runpytest_subprocess().assert_outcomes(passed=1)


def test_default_reaches_the_container(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        def test_default(container): assert container.options.timeout == 7.5
        @pytest.mark.container(timeout=3)
        def test_mark(container): assert container.options.timeout == 3
        def test_factory(container_factory):
            assert container_factory().options.timeout == 7.5
            assert container_factory(timeout=2).options.timeout == 2
        """
    )

    pytester.runpytest_subprocess("--rootfs-timeout=7.5").assert_outcomes(passed=3)


def test_name_means_what_it_was_given_to_last(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("text", ["one", "two"])
        def test_it(container_factory, text):
            with container_factory("minimal") as container:
                container.path("/said").write_text(text)
                container.commit("retagged")
            with container_factory("retagged") as container:
                assert container.path("/said").read_text() == text
        """
    )

    pytester.runpytest_subprocess().assert_outcomes(passed=2)


def test_factory_keeps_containers_until_the_end(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="module")
        def server(container_factory):
            with container_factory(name="server") as server:
                yield server

        @pytest.fixture(scope="session")
        def forgotten(container_factory): return container_factory(name="forgotten")

        def test_one(server, forgotten):
            server.path("/etc/one").write_text("1")
            assert server.hostname == "server"
        def test_two(server, forgotten):
            assert server.path("/etc/one").exists()
            assert not forgotten.is_closed
        """
    )
    pytester.makepyfile(
        test_z="def test_server_is_gone(request): assert not hasattr(request, 'server')"
    )

    pytester.runpytest_subprocess("-W", "error").assert_outcomes(passed=3)


def test_name_is_of_one_live_container_of_a_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from pytest_rootfs import errors

        def test_one(container_factory):
            first = container_factory(name="db")
            for again in (lambda: container_factory(name="db"), lambda: first.fork("db")):
                with pytest.raises(errors.ContainerError, match="the name 'db' is taken"):
                    again()
            first.close()
            container_factory(name="db").run(["true"])

        def test_two(container_factory):
            container_factory(name="db").run(["true"])
        """
    )

    pytester.runpytest_subprocess("-W", "error").assert_outcomes(passed=2)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ("memroy='1M'", "TypeError: unknown keyword 'memroy', did you mean 'memory'?*"),
        ("memory='0'", "ValueError: memory='0' is out of range*"),
        ("inside=True", "TypeError: inside=… is not available yet"),
        ("image='nope'", "*ImageNotFound: *'nope'*"),
    ],
)
def test_factory_refuses_bad_keywords(pytester: pytest.Pytester, call: str, says: str) -> None:
    pytester.makepyfile(f"def test_it(container_factory): container_factory({call})")

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"E  *{says}"])


def test_several_images_run_every_container_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="session")
        def shared(container_factory): return container_factory()

        def test_direct(container): print("image", container.image.name)
        def test_wide(shared): print("image", shared.image.name)
        def test_image(rootfs_image): pass
        def test_plain(): pass
        @pytest.mark.container(image="minimal")
        def test_own(container): assert container.image.name == "minimal"
        @pytest.mark.parametrize("number", [1, 2])
        def test_more(container, number): pass
        """
    )

    result = pytester.runpytest_subprocess(
        "-v", "-s", "--rootfs-image=minimal", "--rootfs-image=scratch"
    )

    result.assert_outcomes(passed=12)
    for name in ("test_direct[minimal]", "test_wide[scratch]", "test_image[scratch]", "test_plain"):
        result.stdout.fnmatch_lines([f"*::{name.replace('[', '[[]')} *"])
    result.stdout.fnmatch_lines(["*::test_own *"])
    text = result.stdout.str()
    for name in ("test_direct", "test_wide"):
        for image in ("minimal", "scratch"):
            assert f"::{name}[{image}] image {image}" in text


def test_one_image_changes_no_id(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(container): assert container.image.name == 'scratch'")

    result = pytester.runpytest_subprocess("-v", "--rootfs-image=scratch")

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*::test_it PASSED*"])


@pytest.mark.parametrize("scope", ["function", "class", "module", "session"])
def test_image_can_be_overridden(pytester: pytest.Pytester, scope: str) -> None:
    pytester.makepyfile(
        f"""
        import pytest
        from pytest_rootfs import Image

        @pytest.fixture(scope={scope!r})
        def rootfs_image(): return Image("minimal").file("/mine", "1")

        def test_container(container): assert container.path("/mine").exists()
        def test_factory(container_factory):
            with container_factory() as container:
                assert container.path("/mine").exists()
        """
    )

    pytester.runpytest_subprocess("--rootfs-image=scratch").assert_outcomes(passed=2)


def test_factory_of_a_wide_fixture_gets_the_override(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        import pytest
        from pytest_rootfs import Image

        @pytest.fixture(scope="session")
        def rootfs_image(): return Image("minimal").file("/mine", "1")
        @pytest.fixture(scope="session")
        def one(container_factory): return container_factory()
        @pytest.fixture(scope="session")
        def two(container_factory): return container_factory()
        """
    )
    pytester.makepyfile(test_a="def test_it(one): assert one.path('/mine').exists()")
    pytester.makepyfile(test_b="def test_it(two): assert two.path('/mine').exists()")

    pytester.runpytest_subprocess("-W", "error").assert_outcomes(passed=2)


def test_factory_of_a_wide_fixture_cannot_reach_a_narrow_override(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        """
        import pytest
        from pytest_rootfs import Image

        @pytest.fixture
        def rootfs_image(): return Image("minimal")
        @pytest.fixture(scope="session")
        def wide(container_factory): return container_factory()

        def test_it(wide): pass
        """
    )

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*ScopeMismatch*function scoped*rootfs_image*"])


def test_override_may_extend_every_image(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture(scope="session")
        def rootfs_image(rootfs_image): return rootfs_image.file("/mine", "1")

        def test_it(container): assert container.path("/mine").exists()
        """
    )

    result = pytester.runpytest_subprocess("--rootfs-image=minimal", "--rootfs-image=scratch")

    result.assert_outcomes(passed=2)


def test_image_can_be_parametrised_by_the_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from pytest_rootfs import Image

        @pytest.mark.parametrize("rootfs_image", [Image("minimal"), Image("scratch")], ids=str)
        def test_it(container, rootfs_image): assert container.image == rootfs_image
        """
    )

    result = pytester.runpytest_subprocess("--rootfs-image=minimal", "--rootfs-image=scratch")

    result.assert_outcomes(passed=2)


@pytest.mark.parametrize("workers", [[], ["-n2"]], ids=["alone", "xdist"])
def test_unknown_default_image_is_a_usage_error(
    pytester: pytest.Pytester, workers: list[str]
) -> None:
    if workers:
        pytest.importorskip("xdist")
    pytester.makepyfile("def test_it(container): pass")

    result = pytester.runpytest_subprocess("--rootfs-image=minimla", *workers)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --rootfs-image (or rootfs_image): *'minimla'*"])
    result.stderr.fnmatch_lines(["*minimal*"])


def test_unknown_image_of_a_mark_is_one_error(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.container("minimla")
        def test_wrong(container): pass
        def test_right(container): pass
        """
    )

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["E  *ImageNotFound: *'minimla'*", "*hint: *'minimal'*"])
    result.stdout.no_fnmatch_line("*fixtures/__init__.py:*")


def test_header_knows_the_digest_of_last_time(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(container): print(container.built.digest)")

    first = pytester.runpytest_subprocess("-s")
    second = pytester.runpytest_subprocess()

    digest = next(line for line in first.outlines if "sha256:" in line and "rootfs:" not in line)
    short = digest.partition("sha256:")[2][:12]
    second.stdout.fnmatch_lines([f"rootfs: *image minimal (sha256:{short}…)*"])
