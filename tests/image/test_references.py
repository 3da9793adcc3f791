"""Which image a name means, and what is said when it means none."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pytest_rootfs.errors import ImageError, ImageNotFound, RecipeError
from pytest_rootfs.image import Image
from pytest_rootfs.image.references import resolve
from pytest_rootfs.image.steps import CopyStep
from pytest_rootfs.store.store import Store

DIGEST = "sha256:" + "5" * 64


@dataclass
class Tags:
    """The tags of a store, as a dict: the seam has two real sides, and this needs none of them."""

    tags: dict[str, str] = field(default_factory=dict)

    @property
    def refs(self) -> Tags:
        """Return itself."""
        return self

    def get(self, name: str) -> str | None:
        """Return a tag's digest."""
        return self.tags.get(name)

    def list(self) -> dict[str, str]:
        """Return all tags."""
        return self.tags


@pytest.fixture
def store() -> Tags:
    return Tags()


def write(folder: Path, name: str, start: str) -> None:
    path = folder / f"{name}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'from = "{start}"\n[[step]]\nlabel = {{ from = "{name}" }}\n')


def test_shipped_recipes_are_known(store: Tags) -> None:
    for name in ("minimal", "busybox"):
        image = resolve(name, store=store, folders=[])

        assert (image.reference, image.name) == ("scratch:", name)
        assert image.steps


@pytest.mark.parametrize("reference", ["host", "host:"])
def test_host_is_the_host(store: Tags, reference: str) -> None:
    assert resolve(reference, store=store, folders=[]) == Image.host()


def test_scratch_has_nothing(store: Tags) -> None:
    assert resolve("scratch", store=store, folders=[]) == Image.scratch()


def test_projects_recipe_comes_before_tag(store: Tags, tmp_path: Path) -> None:
    write(tmp_path, "app", "scratch")
    store.tags["app"] = DIGEST

    assert resolve("app", store=store, folders=[tmp_path]).reference == "scratch:"


def test_tag_comes_before_shipped_recipe(store: Tags) -> None:
    store.tags["minimal"] = DIGEST

    image = resolve("minimal", store=store, folders=[])

    assert (image.reference, image.name) == (DIGEST, "minimal")


def test_digest_is_taken_as_it_is(store: Tags) -> None:
    assert resolve(DIGEST, store=store, folders=[]) == Image(DIGEST)


def test_recipes_stack(store: Tags, tmp_path: Path) -> None:
    write(tmp_path, "base", "scratch")
    write(tmp_path, "team/app", "base")

    image = resolve("team/app", store=store, folders=[tmp_path])

    labels = [step.pairs for step in image.steps]  # type: ignore[union-attr]  # written above
    assert labels == [(("from", "base"),), (("from", "team/app"),)]
    assert image.name == "app"


def test_recipe_may_extend_its_namesake(store: Tags, tmp_path: Path) -> None:
    write(tmp_path, "minimal", "minimal")

    image = resolve("minimal", store=store, folders=[tmp_path])

    assert image.steps[:-1] == resolve("minimal", store=store, folders=[]).steps


def test_circle_is_shown(store: Tags, tmp_path: Path) -> None:
    write(tmp_path, "a", "b")
    write(tmp_path, "b", "a")

    with pytest.raises(RecipeError, match="in a circle: a → b → a"):
        resolve("a", store=store, folders=[tmp_path])


def test_unknown_name_lists_what_is_near(store: Tags, tmp_path: Path) -> None:
    write(tmp_path, "webapp", "scratch")
    store.tags["minimal-git"] = DIGEST

    with pytest.raises(ImageNotFound) as caught:
        resolve("minimall", store=store, folders=[tmp_path])

    assert caught.value.what == "no image is named 'minimall'"
    assert caught.value.detail == f"looked in: {tmp_path}/*.toml, tags of the store, shipped"
    assert caught.value.hint == (
        "did you mean 'minimal' or 'minimal-git'? "
        "known here: busybox, host, minimal, minimal-git, scratch, webapp"
    )


@pytest.mark.parametrize("name", ["\udcff", "a\0b"])
def test_name_that_no_tag_can_have_is_unknown(name: str, tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as store, pytest.raises(ImageNotFound) as caught:
        resolve(name, store=store, folders=[tmp_path])

    assert caught.value.what == f"no image is named {name!r}"


def test_unknown_start_names_its_recipe(store: Tags, tmp_path: Path) -> None:
    write(tmp_path, "app", "mnml")

    with pytest.raises(ImageNotFound, match=r"'mnml' \(asked for by recipe .*app\.toml\)"):
        resolve("app", store=store, folders=[tmp_path])


@pytest.mark.parametrize("reference", ["../app", "/etc/app", "a\0b", "x" * 5000, "a b", " "])
def test_odd_name_is_merely_unknown(store: Tags, tmp_path: Path, reference: str) -> None:
    write(tmp_path, "app", "scratch")
    (tmp_path / "inner").mkdir()

    with pytest.raises(ImageError):
        resolve(reference, store=store, folders=[tmp_path / "inner"])


def test_later_scheme_says_so(store: Tags) -> None:
    with pytest.raises(ImageError, match="cannot read images from `registry:` yet") as caught:
        resolve("registry:x", store=store, folders=[])

    assert "use minimal" in caught.value.hint


@pytest.mark.parametrize("scheme", ["oci", "oci-archive", "docker-archive", "dir"])
def test_path_starts_at_current_folder(
    store: Tags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "oci-layout").touch()
    monkeypatch.chdir(tmp_path)

    image = resolve(f"{scheme}:x", store=store, folders=[])

    assert (image.reference, image.steps) == (f"{scheme}:{tmp_path}/x", ())
    assert image.name == f"{scheme}:x"


def test_path_in_recipe_starts_at_its_folder(store: Tags, tmp_path: Path) -> None:
    write(tmp_path, "app", "oci:base:1.0")

    image = resolve("app", store=store, folders=[tmp_path])

    assert image.reference == f"oci:{tmp_path}/base:1.0"


def test_plain_folder_is_one_copy(store: Tags, tmp_path: Path) -> None:
    image = resolve(f"dir:{tmp_path}", store=store, folders=[])

    step = CopyStep(source=str(tmp_path), target="/", keeps_modes=True)
    assert image == Image("scratch:", steps=(step,))
    assert image.name == f"dir:{tmp_path}"


@pytest.mark.parametrize("scheme", ["oci", "dir"])
def test_scheme_needs_a_path(store: Tags, scheme: str) -> None:
    with pytest.raises(ImageError, match=f"image {scheme}: has no path"):
        resolve(f"{scheme}:", store=store, folders=[])


def test_nothing_follows_host(store: Tags) -> None:
    with pytest.raises(ImageError, match="nothing can follow `host:`"):
        resolve("host:/srv", store=store, folders=[])


def test_hook_comes_first(store: Tags) -> None:
    image = resolve(
        "minimal",
        store=store,
        folders=[],
        hook=lambda reference: Image.scratch().env(A=reference) if reference == "minimal" else None,
    )

    assert image == Image.scratch().env(A="minimal")


def test_hook_that_leads_back_is_not_asked_again(store: Tags) -> None:
    def hook(reference: str) -> Image | None:
        onward = {"minimal": "other", "other": "minimal"}.get(reference)
        return Image(onward).env(A=reference) if onward else None

    image = resolve("minimal", store=store, folders=[], hook=hook)

    plain = resolve("minimal", store=store, folders=[])
    assert image == plain.env(A="other").env(A="minimal")


def test_hook_may_extend_what_it_is_asked_for(store: Tags) -> None:
    image = resolve(
        "minimal",
        store=store,
        folders=[],
        hook=lambda reference: Image(reference).env(A="1") if reference == "minimal" else None,
    )

    assert image.steps[:-1] == resolve("minimal", store=store, folders=[]).steps
