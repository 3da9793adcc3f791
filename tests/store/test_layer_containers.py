"""L03, L52, L54, L55, L63: layers of others and the init layer, in real containers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from archives import Item, archive, entries, file, folder, header, link, together
from features import needs

from pytest_rootfs.engine import Engine, EngineSettings
from pytest_rootfs.errors import ArchiveRejected
from pytest_rootfs.runtime.container import Container
from pytest_rootfs.store import oci
from pytest_rootfs.store.blobs import Descriptor

pytestmark = [needs("userns"), pytest.mark.slow]

Start = Callable[..., Container]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    settings = EngineSettings(store=tmp_path_factory.mktemp("layers") / "store", makes_ahead=False)
    engine = Engine(settings, warn=pytest.fail)
    engine.builder.build("minimal")
    engine.start("scratch").close()  # its processes are there before the first test looks for leaks
    yield engine
    engine.close()


@pytest.fixture
def start(engine: Engine) -> Iterator[Start]:
    """Start a container of `minimal` with these archives on top."""
    with ExitStack() as closing:

        def start(*layers: bytes) -> Container:
            store, base = engine.store, engine.builder.build("minimal")
            below = [
                Descriptor(digest=each, size=store.blobs.size(each), media_type=oci.LAYER_TYPE)
                for each in base.layers
            ]
            own = [store.blobs.put(each, oci.LAYER_TYPE) for each in layers]
            manifest = oci.write_image(store, layers=[*below, *own], config=base.config.as_oci())
            return closing.enter_context(engine.start(manifest.digest))

        yield start


def layer(*items: Item) -> bytes:
    return archive(folder("."), *items)


def packed(engine: Engine, container: Container) -> dict[str, object]:
    """Return the modes of what a container's changes become, by name."""
    descriptor, _ = container.pack_layer()
    content = engine.store.blobs.read_bytes(descriptor.digest)
    return {name: entry.mode for name, (entry, _) in entries(content).items()}


def test_L63_layer_without_parents_keeps_those_below(start: Start) -> None:
    container = start(
        layer(folder("data", 0o1770), file("data/old", b"old")),
        together([header(b"data/new/deep/x"), header(b"data/h", kind=b"1", link=b"data/old")]),
    )

    shown = container.run("stat -c %a /data /data/old /data/new; cat /data/h").stdout

    assert shown.split() == ["1770", "644", "755", "old"]
    assert container.changes() == {}


def test_tree_that_fits_only_its_base_is_not_shared(start: Start) -> None:
    top = together([header(b"data/x")])

    modes = [
        start(layer(folder("data", mode)), top).run("stat -c %a /data").stdout
        for mode in (0o700, 0o1777)
    ]

    assert modes == ["700\n", "1777\n"]


def test_refused_layer_is_named(start: Start) -> None:
    with pytest.raises(ArchiveRejected, match=r"layer sha256:\w{64}: .*`\.\./x`.*\(entry 1\)"):
        start(together([header(b"../x")]))


def test_L03_deleted_file_of_init_layer_leaves_nothing(engine: Engine, start: Start) -> None:
    container = start()

    container.run("rm -f /etc/hosts /etc/resolv.conf; echo x > /etc/hostname")

    assert packed(engine, container) == {}


def test_L52_folder_of_init_layer_has_attributes_of_image(engine: Engine, start: Start) -> None:
    container = start(layer(folder("etc", 0o2750)))

    container.run("touch /etc/new")

    assert packed(engine, container) == {".": 0o755, "etc": 0o2750, "etc/new": 0o644}


@pytest.mark.parametrize(
    "top",
    [
        [folder("etc"), link("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf")],
        [folder("etc"), file("etc/.wh.hostname", mode=0), file("etc/.wh.hosts", mode=0)],
        [file(".wh.etc", mode=0)],
    ],
    ids=["link", "missing", "no-etc"],
)
def test_L54_init_layer_is_never_a_change(start: Start, top: list[Item]) -> None:
    container = start(layer(*top))

    container.run("true")

    assert container.changes() == {}


def test_L55_step_without_change_has_no_layer(engine: Engine) -> None:
    from pytest_rootfs.image import Image

    base = engine.builder.build("minimal")
    built = engine.builder.build(Image("minimal").run("true"))

    history = oci.read_image(engine.store, built.digest).config["history"]
    assert built.layers == base.layers
    assert history[-1]["empty_layer"] is True
