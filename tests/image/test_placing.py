"""Where content lands in an image, and which folders come with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_rootfs.errors import RecipeError
from pytest_rootfs.image import Image
from pytest_rootfs.image.gathering import Gatherer
from pytest_rootfs.image.placing import place
from pytest_rootfs.image.steps import ConfigStep, LayoutStep, RunStep
from pytest_rootfs.image.trees import TreeEntry
from pytest_rootfs.image.view import ImageView, Row


def folder(path: str, mode: int = 0o755, uid: int = 0, gid: int = 0) -> Row:
    return (path, "dir", mode, uid, gid, "")


def link(path: str, target: str) -> Row:
    return (path, "symlink", 0o777, 0, 0, target)


def plain(path: str) -> Row:
    return (path, "file", 0o644, 0, 0, "")


def image_with(*rows: Row) -> ImageView:
    view = ImageView()
    view.apply(rows)
    return view


def placed(image: Image, view: ImageView) -> list[TreeEntry]:
    entries: list[TreeEntry] = []
    for step in image.steps:
        assert not isinstance(step, (RunStep, ConfigStep))
        entries += place(step, Gatherer().gather(step), view)
    return entries


def listing(entries: list[TreeEntry]) -> list[tuple[str, str, int]]:
    return [(entry.path.decode(), entry.kind, entry.mode) for entry in entries]


def test_all_parents_come_first() -> None:
    entries = placed(Image.scratch().file("/a/b/c", "x"), image_with())

    assert listing(entries) == [
        ("", "dir", 0o755),
        ("a", "dir", 0o755),
        ("a/b", "dir", 0o755),
        ("a/b/c", "file", 0o644),
    ]


def test_parents_keep_their_attributes() -> None:
    view = image_with(folder("", 0o711), folder("etc", 0o700, uid=5, gid=6))

    entries = placed(Image.scratch().file("/etc/x", ""), view)

    assert listing(entries) == [
        ("", "dir", 0o711),
        ("etc", "dir", 0o700),
        ("etc/x", "file", 0o644),
    ]
    assert [entry.owner for entry in entries] == [(0, 0), (5, 6), (0, 0)]


@pytest.mark.parametrize("target", ["usr/bin", "/usr/bin", "../../usr/bin", "hop/../usr/bin"])
def test_links_of_the_image_are_resolved(target: str) -> None:
    view = image_with(folder("usr"), folder("usr/bin"), folder("hop"), link("bin", target))

    entries = placed(Image.scratch().file("/bin/tool", ""), view)

    assert [entry.path for entry in entries] == [b"", b"usr", b"usr/bin", b"usr/bin/tool"]


def test_link_loop_is_refused() -> None:
    view = image_with(link("a", "b"), link("b", "a"))

    with pytest.raises(RecipeError, match="too many levels of symbolic links"):
        placed(Image.scratch().file("/a/x", ""), view)


def test_folder_contents_are_copied(tmp_path: Path) -> None:
    source = tmp_path / "app"
    (source / "lib").mkdir(parents=True)
    (source / "lib" / "x").write_text("")

    entries = placed(Image.scratch().copy(source, "/opt/app"), image_with())

    assert [entry.path for entry in entries] == [
        b"",
        b"opt",
        b"opt/app",
        b"opt/app/lib",
        b"opt/app/lib/x",
    ]


@pytest.mark.parametrize(
    ("target", "path"),
    [("/opt/tool", b"opt/tool"), ("/opt/", b"opt/app"), ("/srv", b"srv/app"), ("/", b"app")],
)
def test_file_goes_into_folders(tmp_path: Path, target: str, path: bytes) -> None:
    source = tmp_path / "app"
    source.write_text("x")

    entries = placed(Image.scratch().copy(source, target), image_with(folder(""), folder("srv")))

    assert entries[-1].path == path


def test_existing_folder_keeps_its_attributes(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / "x").write_text("")

    entries = placed(
        Image.scratch().copy(tmp_path, "/", owner=7), image_with(folder("tmp", 0o1777))
    )

    assert ("tmp", "dir", 0o1777) in listing(entries)


def test_identical_content_makes_no_layer() -> None:
    image = Image.scratch().file("/etc/x", "same")
    view = image_with()
    placed(image, view)

    assert placed(image, view) == []


def test_order_is_depth_first(tmp_path: Path) -> None:
    for name in ("a-b", "a/c", "a.b", "B"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")

    entries = placed(Image.scratch().copy(tmp_path, "/"), image_with())

    assert [entry.path for entry in entries] == [b"", b"B", b"a", b"a/c", b"a-b", b"a.b"]


def test_folder_onto_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot put a folder at /opt: it is a file"):
        placed(Image.scratch().copy(tmp_path, "/opt"), image_with(plain("opt")))


def test_file_onto_folder_is_refused() -> None:
    with pytest.raises(RecipeError, match="cannot put a file at /opt: it is a folder"):
        placed(Image.scratch().file("/opt", ""), image_with(folder("opt")))


def test_file_below_file_is_refused() -> None:
    with pytest.raises(RecipeError, match="cannot put anything below /etc: it is a file"):
        placed(Image.scratch().file("/etc/x/y", ""), image_with(plain("etc")))


def test_whiteouts_uncover_nothing() -> None:
    view = image_with(folder("etc", 0o700), plain("etc/x"), folder("opt"), plain("opt/y"))
    view.apply([(".wh.etc", "file", 0, 0, 0, ""), ("opt/.wh..wh..opq", "file", 0, 0, 0, "")])

    assert [view.get(path) for path in (b"etc", b"etc/x", b"opt/y")] == [None, None, None]
    assert listing(placed(Image.scratch().file("/etc/x", ""), view))[1] == ("etc", "dir", 0o755)


def test_file_replaces_tree_in_view() -> None:
    view = image_with(folder("a"), plain("a/b"), plain("a"))

    assert view.get(b"a/b") is None


def test_layout_is_private_where_it_must_be() -> None:
    step = LayoutStep()

    entries = place(step, Gatherer().gather(step), image_with())

    modes = {entry.path: entry.mode for entry in entries if entry.kind == "dir"}
    links = {entry.path: entry.linkname for entry in entries if entry.kind == "symlink"}
    assert [modes[path] for path in (b"tmp", b"var/tmp", b"root", b"")] == [
        0o1777,
        0o1777,
        0o700,
        0o755,
    ]
    assert links[b"bin"] == b"usr/bin"


def test_host_is_its_own_view() -> None:
    view = ImageView(is_host=True)

    entries = placed(Image.host().file("/usr/new/x", ""), view)

    assert [entry.path for entry in entries] == [b"", b"usr", b"usr/new", b"usr/new/x"]
    assert view.get(b"no-such-folder/x") is None
