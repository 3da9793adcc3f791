"""Gather the content of any step, and say whether what was gathered before still holds."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pytest_rootfs.errors import RecipeError
from pytest_rootfs.image.applets import gather_applets
from pytest_rootfs.image.copying import gather_copy
from pytest_rootfs.image.layout import gather_layout
from pytest_rootfs.image.programs import GatheredPrograms, gather_programs
from pytest_rootfs.image.steps import (
    AppletsStep,
    ContentStep,
    CopyStep,
    FileStep,
    LayoutStep,
    ProgramsStep,
)
from pytest_rootfs.image.trees import Tree, content_entry, is_unchanged

FORMAT = 1
MEMORY_OF_YOUNG = {"tree": '{"format": 0}'}
"""What is remembered of a tree too young for its times to prove that it is unchanged."""


class Gatherer:
    """Gather the content of the steps of one build; asks about the same programs once."""

    def __init__(self) -> None:
        self._programs: dict[tuple[tuple[str, ...], tuple[str, ...]], GatheredPrograms] = {}

    def gather(self, step: ContentStep) -> Tree:
        """Return the content of a step, reading and hashing whatever of the host it names.

        Raises `RecipeError` for anything of the host that is missing, unreadable or unfit.
        """
        try:
            return self._gather(step)
        except OSError as error:
            raise RecipeError(f"cannot read {error.filename}: {error.strerror}") from error

    def _gather(self, step: ContentStep) -> Tree:
        if isinstance(step, CopyStep):
            return gather_copy(step)
        if isinstance(step, ProgramsStep):
            return self._gather_programs(step)
        if isinstance(step, AppletsStep):
            return gather_applets(step)
        if isinstance(step, LayoutStep):
            return gather_layout()
        return _gather_file(step)

    def _gather_programs(self, step: ProgramsStep) -> Tree:
        key = (step.required, step.optional)
        if key not in self._programs:
            self._programs[key] = gather_programs(*key)
        return self._programs[key].tree(step.part)


def _gather_file(step: FileStep) -> Tree:
    path = step.path.encode(errors="surrogateescape").strip(b"/")
    entry = content_entry(path, step.content, mode=step.mode, owner=step.owner)
    return Tree(entries=(entry,))


def reads_host(step: ContentStep) -> bool:
    """Tell whether the content of a step depends on files of the host."""
    return not isinstance(step, (FileStep, LayoutStep))


def memory_of(tree: Tree) -> dict[str, str]:
    """Return what to remember of a tree, so that it need not be read again.

    File names that are not UTF-8 survive only in the ASCII form of JSON, hence a string.
    """
    seen = [[path, *mark] for path, mark in tree.seen]
    memory = {"format": FORMAT, "digest": tree.digest, "seen": seen, "skipped": tree.skipped}
    return {"tree": json.dumps(memory)}


def digest_if_unchanged(remembered: Mapping[str, object] | None) -> str | None:
    """Return the remembered digest of a tree if every file that decided it is as it was."""
    if remembered is None:
        return None
    memory = json.loads(str(remembered["tree"]))
    if memory["format"] != FORMAT or not is_unchanged((row[0], row[1:]) for row in memory["seen"]):
        return None
    return str(memory["digest"])
