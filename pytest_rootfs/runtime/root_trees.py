"""Make a container's root file system from detached trees, for its first process to attach.

Three parts: the image's layers and the init layer, read-only, and a rw layer of the container's
own. On kernels before 6.15 an overlay takes no part of a detached tree, so there each part gets a
place in the spawner's mount namespace for a moment; which way works is found by trying once.
"""

from __future__ import annotations

import errno
import os

from pytest_rootfs.kernel import mounts
from pytest_rootfs.runtime import init_layer
from pytest_rootfs.runtime.host_views import HostView
from pytest_rootfs.runtime.init_layer import FOLDER_FLAGS
from pytest_rootfs.runtime.rw_folders import RwLayer, RwLayers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_rootfs.runtime.protocol import Message

HOST = "host"
"""The name, among the layers of an image, of the host's own root directory."""

KEPT_INIT_LAYERS = 32


class Root:
    """The root file system of one container, as what its start needs."""

    __slots__ = ("host_view", "overlay_fd", "rw_layer")

    def __init__(
        self, overlay_fd: int, rw_layer: RwLayer, host_view: HostView | None = None
    ) -> None:
        """Hold the detached overlay, the rw layer and, for an ordinary user, the host's parts."""
        self.overlay_fd = overlay_fd
        self.rw_layer = rw_layer
        self.host_view = host_view

    @property
    def trees(self) -> list[tuple[int, str]]:
        """What is attached below the overlay: descriptors and paths."""
        return [] if self.host_view is None else self.host_view.trees

    def close_start(self) -> None:
        """Close what only the start needs; the rw layer stays."""
        os.close(self.overlay_fd)
        if self.host_view is not None:
            self.host_view.close()


class _Attached:
    """Has a rw layer at a place, if one is given, for the length of a `with` block."""

    __slots__ = ("_place", "_rw_layer")

    def __init__(self, rw_layer: RwLayer, place: str) -> None:
        self._rw_layer = rw_layer
        self._place = place

    def __enter__(self) -> None:
        if not self._place:
            return
        self._rw_layer.attach(self._place)
        try:
            self._rw_layer.keep_copy(self._place)
        except OSError:
            mounts.detach_last(self._place)
            raise

    def __exit__(self, *_: object) -> None:
        if self._place:
            mounts.detach_last(self._place)


class RootTrees:
    """The trees that the containers of a session share, and how to put one together."""

    def __init__(self, layers_fd: int, place: str) -> None:
        """Use the folder of unpacked layers, a detached tree, and a path to give trees a place."""
        self._layers_fd = layers_fd
        self._rw_layers = RwLayers(layers_fd)
        self._place = place
        self._host_fd = -1
        self._host_overlay_fds: list[int] = []
        """What keeps the host's overlay, on which layers may lie: made once, its root last."""
        self._takes_detached = _takes_detached()
        self._init_layers: dict[str, tuple[int, int]] = {}
        mounts.keep_attached(layers_fd, place)

    @property
    def limits_disk(self) -> bool:
        """Whether the size of a rw layer can be limited."""
        return not self._rw_layers.are_on_disk

    def add_host(self, tree_fd: int) -> None:
        """Use a tree of the host's root directory that the warden has id-mapped."""
        if self._host_fd < 0:
            self._host_fd = os.dup(tree_fd)
            mounts.keep_attached(self._host_fd, self._place)

    def make(self, plan: Message, rw_layer: RwLayer | None = None) -> Root:
        """Return the root file system of one container, on a new rw layer unless one is given."""
        try:
            return self._make(plan, rw_layer)
        except OSError as error:
            raise mounts.named_nested(error, self._layers_fd) from None

    def make_spare(self, plan: Message) -> None:
        """Make an empty rw layer, for the next container of a plan or of one like it."""
        self._rw_layers.make_spare(plan["rw"])

    def _make(self, plan: Message, rw_layer: RwLayer | None) -> Root:
        opened = open_layers(self._layers_fd, plan["layers"], self._host_fd)
        try:
            if HOST in plan["layers"] and self._host_fd < 0:
                *layer_fds, host_fd = opened
                init_layer_fd = self._init_layer(plan["init_layer"], [host_fd])
                assemble = self._show_host
            else:
                layer_fds = self._on_host(opened) if HOST in plan["layers"][1:] else opened
                init_layer_fd = self._init_layer(plan["init_layer"], layer_fds)
                assemble = self._assemble
            lower_fds = [init_layer_fd, *layer_fds]
            if rw_layer is not None:
                return assemble(lower_fds, rw_layer)
            made = self._rw_layers.make(plan["rw"], os.stat(init_layer_fd))
            try:
                return assemble(lower_fds, made)
            except OSError:
                made.close()
                raise
        finally:
            for fd in opened:
                os.close(fd)

    def _on_host(self, opened: Sequence[int]) -> list[int]:
        """Put the host's overlay in the place of its root directory (see `stack_on_host`)."""
        if not self._host_overlay_fds:
            self._host_overlay_fds = view_host(
                self._host_fd, "" if self._takes_detached else self._place
            )
        return [*opened[:-1], self._host_overlay_fds[-1]]

    def _assemble(self, lower_fds: Sequence[int], rw_layer: RwLayer) -> Root:
        with self._attached(rw_layer):
            return Root(_overlay(lower_fds, rw_layer), rw_layer)

    def _show_host(self, lower_fds: Sequence[int], rw_layer: RwLayer) -> Root:
        """Return the host's root directory, of which an ordinary user may show the folders."""
        view = None
        try:
            # each is attached once: a tree that has lost its place cannot get one again
            place = "" if self._takes_detached else self._place
            with self._attached(rw_layer):
                rw_fds = rw_layer.upper_fd, rw_layer.folder_fd
                view = HostView(lower_fds, *rw_fds, place=place)
                try:
                    root_fd = _overlay([*lower_fds, view.folder_fd], rw_layer)
                finally:
                    if place:
                        mounts.detach_last(place)
            return Root(root_fd, rw_layer, view)
        except OSError:
            if view is not None:
                view.close()
            raise

    def _attached(self, rw_layer: RwLayer) -> _Attached:
        """Give a rw layer a place for the length of a `with` block, where that is needed."""
        needs_none = self._takes_detached or rw_layer.is_on_disk
        return _Attached(rw_layer, "" if needs_none else self._place)

    def _init_layer(self, content: Message, layer_fds: Sequence[int]) -> int:
        """Return the init layer of a plan: the same for all its containers, read-only."""
        key = content["key"]
        if key not in self._init_layers:
            self.forget_init_layers(KEPT_INIT_LAYERS - 1)
            self._init_layers[key] = init_layer.build(content, layer_fds)
            if not self._takes_detached:
                mounts.keep_attached(self._init_layers[key][0], self._place)
        return self._init_layers[key][1]

    def make_room(self) -> None:
        """Give up all descriptors of what can be made again."""
        self._rw_layers.give_up_spare()
        self.forget_init_layers()

    def forget_init_layers(self, kept: int = 0) -> None:
        """Give up the oldest: each takes two descriptors, and is built again when it is needed."""
        while len(self._init_layers) > kept:
            for fd in self._init_layers.pop(next(iter(self._init_layers))):
                os.close(fd)


def _takes_detached() -> bool:
    """Tell whether an overlay can be made of detached trees, which Linux 6.15 allows."""
    trees = [mounts.filesystem("tmpfs", {"mode": "755"}) for _ in range(2)]
    opened = list(trees)
    try:
        for tree_fd in trees:
            os.mkdir("lower", dir_fd=tree_fd)
            opened.append(os.open("lower", FOLDER_FLAGS, dir_fd=tree_fd))
        os.close(mounts.overlay(opened[2:]))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    finally:
        for fd in opened:
            os.close(fd)
    return True


def _overlay(lower_fds: Sequence[int], rw_layer: RwLayer) -> int:
    work_fd = os.open("work", FOLDER_FLAGS, dir_fd=rw_layer.folder_fd)
    try:
        return mounts.overlay(lower_fds, upper_fd=rw_layer.upper_fd, work_fd=work_fd)
    finally:
        os.close(work_fd)


def open_layers(layers_fd: int, names: Sequence[str], host_fd: int) -> list[int]:
    """Open unpacked layers by their diffIDs, in the order given; `host` is the host's root."""
    opened: list[int] = []
    try:
        for name in names:
            if name != HOST:
                path = f"{name.partition(':')[2]}/fs"
                opened.append(os.open(path, FOLDER_FLAGS, dir_fd=layers_fd))
            elif host_fd >= 0:
                opened.append(os.open(".", FOLDER_FLAGS, dir_fd=host_fd))
            else:
                opened.append(os.open("/", FOLDER_FLAGS))
    except OSError:
        for fd in opened:
            os.close(fd)
        raise
    return opened


def stack_on_host(names: Sequence[str], opened: list[int], place: str = "") -> list[int]:
    """Return lower dirs of which none lies inside another, which an overlay refuses (ELOOP).

    Layers are folders of the host, and so lie below its root: with layers above it, the host is
    made an overlay of its own first. What that opens is added to `opened`; a `place` keeps what it
    makes in this mount namespace, which Linux before 6.15 asks of a lower dir.
    """
    if len(names) < 2 or names[-1] != HOST:
        return list(opened)
    opened += view_host(opened[len(names) - 1], place)
    return [*opened[: len(names) - 1], opened[-1]]


def view_host(host_fd: int, place: str) -> list[int]:
    """Make the host's root directory an overlay; return what keeps it, its root folder last."""
    opened = [mounts.filesystem("tmpfs", {"mode": "755"})]
    try:
        if place:
            mounts.keep_attached(opened[0], place)
        opened.append(os.open(".", FOLDER_FLAGS, dir_fd=opened[0]))
        init_layer.copy_attributes(os.stat(host_fd), opened[1])
        opened.append(mounts.overlay([opened[1], host_fd]))
        if place:
            mounts.keep_attached(opened[2], place)
        opened.append(os.open(".", FOLDER_FLAGS, dir_fd=opened[2]))
    except OSError:
        for fd in opened:
            os.close(fd)
        raise
    return opened
