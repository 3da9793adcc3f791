"""Describe an image without building it: a reference to start from, and steps."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pytest_rootfs.errors import RecipeError
from pytest_rootfs.image.globs import compile_globs
from pytest_rootfs.image.steps import (
    ConfigStep,
    CopyStep,
    FileStep,
    ProgramsStep,
    RunStep,
    Step,
    checked_mode,
    checked_owner,
    checked_pairs,
    checked_path,
    checked_words,
)

SCRATCH = "scratch:"
HOST = "host:"
FOREIGN_SCHEMES = ("oci", "oci-archive", "docker-archive", "dir")
"""What is read from a path outside of the store."""

StrPath = str | os.PathLike[str]
Owner = str | int | tuple[int, int] | None


@dataclass(frozen=True)  # with slots, setting a new attribute is a TypeError before Python 3.14
class Image:
    """Describe an image: the name of another one, and the steps that follow.

    Immutable; every verb returns a new image. Nothing is read or built until a container or the
    builder needs it, so a missing file is an error then. A wrong argument is a `RecipeError` now.
    Two images are equal when their start and their steps are.
    """

    reference: str = "minimal"
    steps: tuple[Step, ...] = field(default=(), kw_only=True)
    title: str = field(default="", kw_only=True, compare=False)
    titled_steps: int = field(default=0, kw_only=True, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.reference, str) or not self.reference or "\0" in self.reference:
            raise RecipeError(
                f"image {self.reference!r} is not a reference",
                hint='give a name such as "minimal", or use Image.scratch() or Image.host()',
            )

    @classmethod
    def scratch(cls) -> Image:
        """Start from no file at all."""
        return cls(SCRATCH, title="scratch")

    @classmethod
    def host(cls) -> Image:
        """Start from a copy-on-write view of the host's own root directory."""
        return cls(HOST, title="host")

    @property
    def name(self) -> str:
        """Return the name for reports: the title, and how many steps were put on top."""
        added = len(self.steps) - self.titled_steps
        return (self.title or self.reference) + (f"+{added}" if added > 0 else "")

    def __str__(self) -> str:
        return self.name

    def copy(
        self,
        source: StrPath,
        target: str,
        mode: int | str | None = None,
        owner: Owner = None,
        ignore: Sequence[str] = (),
    ) -> Image:
        """Copy a file, or the contents of a folder, from the host; one layer.

        A relative source starts at the current directory. As with `COPY` of a Containerfile a
        folder's contents go into `target`, and a file becomes `target`, or goes into it when it
        is a folder or ends in a slash. Links are copied as links and never followed.

        Modes become 0755 for folders and for files that their owner can execute, and 0644 for the
        rest; a `mode` is for files, and folders get it with execute where it has read. Times,
        owners and extended attributes of the source are not copied. `ignore` takes globs
        with `**`; one without a slash is tried on every name at any depth.
        """
        ignored = checked_words("copy", "ignore", ignore)
        compile_globs(ignored)  # refuses what is no glob
        return self.with_step(
            CopyStep(
                source=os.path.abspath(_host_path("copy", "source", source)),
                target=checked_path("copy", "target", target, is_folder_allowed=True),
                mode=checked_mode("copy", mode),
                owner=checked_owner("copy", owner),
                ignore=ignored,
            )
        )

    def file(
        self,
        path: str,
        content: str | bytes,
        *,
        mode: int | str | None = None,
        owner: Owner = None,
    ) -> Image:
        """Write one file; text is stored as UTF-8; one layer."""
        if not isinstance(content, (str, bytes)):
            raise RecipeError(f"file: content of {path!r} is {type(content).__name__}, not text")
        checked = checked_mode("file", mode)
        return self.with_step(
            FileStep(
                path=checked_path("file", "path", path),
                content=content.encode() if isinstance(content, str) else content,
                mode=0o644 if checked is None else checked,
                owner=checked_owner("file", owner),
            )
        )

    def add_binary(self, path: StrPath) -> Image:
        """Add a program of this host with every shared library it needs, under its own path.

        A script brings its interpreter along. A program that loads more at run time (plug-ins,
        data folders) needs those copied as well; one layer.
        """
        text = _host_path("add_binary", "path", path)
        return self.with_step(ProgramsStep(required=(checked_path("add_binary", "path", text),)))

    def run(self, command: str | Sequence[str], network: bool = False) -> Image:  # noqa: FBT001, FBT002  signature of the public interface
        """Run a command in the image so far; what it changes becomes one layer.

        A string is run by the image's `/bin/sh -c`, a sequence as it is. There is no network
        unless it is asked for.
        """
        if not isinstance(network, bool):
            raise RecipeError(f"run: network={network!r} is not true or false")
        if isinstance(command, str):
            words: str | tuple[str, ...] = command
        else:
            words = checked_words("run", "command", command)
        if not words or not words[0] or "\0" in words:
            raise RecipeError(f"run: command={command!r} is empty or holds a NUL byte")
        return self.with_step(RunStep(command=words, network=network))

    def env(self, **variables: str) -> Image:
        """Set environment variables for every command; no layer."""
        return self._config("env", pairs=variables)

    def label(self, **labels: str) -> Image:
        """Set labels, which mean nothing to containers; no layer."""
        return self._config("label", pairs=labels)

    def workdir(self, path: str) -> Image:
        """Set the folder in which commands start; it is not created; no layer."""
        return self._config(
            "workdir", words=[checked_path("workdir", "path", path, is_folder_allowed=True)]
        )

    def user(self, user: str | int) -> Image:
        """Set the user of every command: a name, an id, or either with a group: "1000:1000"."""
        if isinstance(user, bool) or not isinstance(user, (str, int)):
            raise RecipeError(f"user: {user!r} is not a user name or id")
        parts = str(user).split(":")
        if len(parts) > 2 or not all(parts) or "\0" in str(user):
            raise RecipeError(f"user: {user!r} is not USER or USER:GROUP")
        return self._config("user", words=[str(user)])

    def entrypoint(self, command: Sequence[str]) -> Image:
        """Set the entry point that exported images start; commands of tests ignore it."""
        return self._config("entrypoint", words=checked_words("entrypoint", "command", command))

    def with_step(self, step: Step) -> Image:
        """Return this image with one more step."""
        return Image(
            self.reference,
            steps=(*self.steps, step),
            title=self.title,
            titled_steps=self.titled_steps,
        )

    def _config(
        self,
        key: str,
        *,
        words: Sequence[str] = (),
        pairs: Mapping[str, str] | None = None,
    ) -> Image:
        checked = checked_pairs(key, dict(pairs or {}))
        return self.with_step(ConfigStep(key=key, words=tuple(words), pairs=checked))  # type: ignore[arg-type]  # callers above pass literals


def _host_path(verb: str, key: str, value: object) -> str:
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else ""
    if not isinstance(text, str) or not text or "\0" in text:
        raise RecipeError(f"{verb}: {key}={value!r} is not a path of the host")
    return text
