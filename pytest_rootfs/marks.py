"""Merge the `container` marks of a test, and say what is wrong with one.

Errors are `ValueError` with one sentence; who asked adds the name of the test. Values are checked
by `ContainerOptions`, which the fixtures use as well, so that both say the same.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from pytest_rootfs.options import KEEP, Keep

if TYPE_CHECKING:
    from pytest_rootfs.image import Image
    from pytest_rootfs.runtime.spec import ContainerOptions

KEYWORDS = (
    "image", "user", "workdir", "env", "hostname", "memory", "cpus", "pids", "disk", "timeout",
    "network", "mounts", "tmpfs", "readonly", "capabilities", "keep",
)  # fmt: skip
LATER = ("inside",)


class Mark(Protocol):
    """What is read of a `pytest.Mark`."""

    @property
    def args(self) -> tuple[object, ...]:
        """The positional arguments."""

    @property
    def kwargs(self) -> Mapping[str, object]:
        """The keywords."""


def merge(marks: Iterable[Mark]) -> dict[str, object]:
    """Merge marks, given closest first, key by key; None gives a key back to the defaults.

    Raises `ValueError` for a keyword that does not exist.
    """
    merged: dict[str, object] = {}
    for mark in reversed(list(marks)):
        merged.update(_keywords(mark))
    return {key: value for key, value in merged.items() if value is not None}


def split(
    keywords: Mapping[str, object], defaults: ContainerOptions | None
) -> tuple[Image | str | None, Keep | None, ContainerOptions]:
    """Check keywords and part them into image, keep policy and the container's options.

    Raises `ValueError` naming the key with the bad value, `TypeError` for an unknown one.
    """
    from pytest_rootfs.runtime.spec import ContainerOptions  # noqa: PLC0415  first container only

    check_names(keywords)
    rest = {key: value for key, value in keywords.items() if key not in ("image", "keep", *LATER)}
    options = ContainerOptions.from_keywords(rest, defaults=defaults)
    return _image(keywords.get("image")), _keep(keywords.get("keep")), options


def with_rooted_mounts(keywords: Mapping[str, object], rootdir: Path) -> dict[str, object]:
    """Let relative sources of mounts start at pytest's rootdir, wherever pytest was called.

    Bad values stay as they are, for `split` to refuse.
    """
    mounts = keywords.get("mounts")
    if mounts is None or isinstance(mounts, str) or not isinstance(mounts, Sequence):
        return dict(keywords)
    return {**keywords, "mounts": [_rooted(mount, rootdir) for mount in mounts]}


def keep_of(marks: Iterable[Mark]) -> Keep | None:
    """Return what the marks of a test, given closest first, say of keeping its containers."""
    return _keep(merge(marks).get("keep"))


def check_names(keywords: Iterable[str]) -> None:
    """Raise `TypeError` for a keyword that does not exist, naming the closest one that does."""
    for name in keywords:
        if name in LATER:
            raise TypeError(f"{name}=… is not available yet")
        if name not in KEYWORDS:
            close = difflib.get_close_matches(name, KEYWORDS, n=1)
            meant = f", did you mean {close[0]!r}?" if close else ";"
            raise TypeError(f"unknown keyword {name!r}{meant} accepted are {', '.join(KEYWORDS)}")


def _keywords(mark: Mark) -> dict[str, object]:
    if len(mark.args) > 1:
        raise ValueError(
            f"the mark takes one positional argument, the image, not {len(mark.args)}: "
            f"{', '.join(map(repr, mark.args))}"
        )
    if mark.args and "image" in mark.kwargs:
        raise ValueError("the image is given twice, by position and as image=…")
    # inside=False is the default and harmless
    given = {key: value for key, value in mark.kwargs.items() if (key, value) != ("inside", False)}
    try:
        check_names(given)
    except TypeError as error:
        raise ValueError(str(error)) from None
    return given | ({"image": mark.args[0]} if mark.args else {})


def _image(value: object) -> Image | str | None:
    if value is None or (isinstance(value, str) and value.strip()):
        return value
    if not isinstance(value, str):
        from pytest_rootfs.image import Image  # noqa: PLC0415  only who made one has it imported

        if isinstance(value, Image):
            return value
    raise ValueError(f"image={value!r} is neither an Image nor the name of one")


def _rooted(mount: object, rootdir: Path) -> object:
    if isinstance(mount, str) or not isinstance(mount, Sequence) or not mount:
        return mount
    source, *rest = mount
    if not isinstance(source, (str, os.PathLike)) or not os.fspath(source):
        return mount
    return (rootdir / os.fsdecode(source), *rest)


def _keep(value: object) -> Keep | None:
    if value is None or value in KEEP:
        return cast("Keep | None", value)  # the line above has checked it
    raise ValueError(f"keep={value!r} is not one of {', '.join(KEEP)}")
