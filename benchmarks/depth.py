"""What the number of layers of an image costs."""

from __future__ import annotations

import functools

from benchmarks.figures import Result, Samples, interleaved
from benchmarks.floor import Floor, FloorRefused
from benchmarks.phases import lives
from benchmarks.stage import Stage
from pytest_rootfs.image import Image

ABOUT = "a container's life, made on demand, by the number of image layers"
PROGRAM = "/usr/bin/true"


def measure(stage: Stage) -> Result:
    """Measure ours and the floor with every number of layers."""
    effort, result = stage.effort, Result()
    turns = []
    for depth in effort.depths:
        image = image_of(depth)
        lowers = stage.layers(image)
        turns.append(functools.partial(our_lives, stage, image, len(lowers)))
        try:
            floor = Floor(stage.folder, lowers, PROGRAM)
            floor.measure(1)
        except FloorRefused as refusal:
            result.refused[f"{floor_name(depth)}"] = str(refusal)
        else:
            turns.append(functools.partial(floor_lives, floor, depth, effort.turn))
    first = effort.depths[0]
    for name, column in interleaved(effort.rounds, turns).items():
        beside = floor_name(first) if name.startswith("floor") else our_name(first)
        result.add({name: column}, beside=beside)
    return result


def image_of(depth: int) -> Image:
    """Return an image of so many layers: one program, and a file a layer on top of it."""
    image = Image.scratch().add_binary(PROGRAM)
    for number in range(1, depth):
        image = image.file(f"/layers/{number}", "")
    return image


def our_lives(stage: Stage, image: Image, depth: int) -> Samples:
    """Return the milliseconds of whole lives."""
    name = our_name(depth)
    return {name: lives(stage.cold, name, stage.effort.turn, body_s=0, image=image)[name]}


def floor_lives(floor: Floor, depth: int, count: int) -> Samples:
    """Return the same of the floor."""
    return {floor_name(depth): floor.measure(count)["floor"]}


def our_name(depth: int) -> str:
    """Name a figure."""
    return f"{depth} layer{'s' if depth > 1 else ''}"


def floor_name(depth: int) -> str:
    """Name the floor's figure."""
    return f"floor, {our_name(depth)}"
