"""The fixture `image_builder`."""

from __future__ import annotations

import pytest
from features import needs

pytestmark = needs("userns")


def test_builder_builds(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from pytest_rootfs import Image

        def test_it(image_builder, container_factory):
            built = image_builder.build(Image("minimal").file("/a", "1"))
            assert built.digest.startswith("sha256:")
            assert container_factory(Image("minimal").file("/a", "1")).built.digest == built.digest
        """
    )

    pytester.runpytest_subprocess("-W", "error").assert_outcomes(passed=1)


def test_built_again_an_edited_recipe_is_what_containers_get(pytester: pytest.Pytester) -> None:
    pytester.mkdir("images")
    pytester.makepyfile(
        """
        def content(container_factory):
            return container_factory("edited").path("/a").read_text()

        def test_it(image_builder, container_factory, pytestconfig):
            recipe = pytestconfig.rootpath / "images" / "edited.toml"
            recipe.write_text('from = "scratch"\\n[[step]]\\nfile = ["/a", "first"]')
            assert content(container_factory) == "first"
            for text in ("old", "new"):
                recipe.write_text(f'from = "scratch"\\n[[step]]\\nfile = ["/a", "{text}"]')
                image_builder.build("edited")
                assert content(container_factory) == text
            recipe.write_text('from = "scratch"')
            assert content(container_factory) == "new"
        """
    )

    pytester.runpytest_subprocess().assert_outcomes(passed=1)
