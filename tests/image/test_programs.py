"""Which files a host program brings along."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from features import needs

from pytest_rootfs.errors import RecipeError
from pytest_rootfs.image.applets import gather_applets
from pytest_rootfs.image.elf import Linkage
from pytest_rootfs.image.libraries import Libraries, check_trusted
from pytest_rootfs.image.programs import find_program, gather_programs
from pytest_rootfs.image.steps import AppletsStep
from pytest_rootfs.image.trees import is_unchanged


def script(path: Path, first_line: str) -> str:
    path.write_text(f"{first_line}\n")
    path.chmod(0o755)
    return str(path)


def test_shell_comes_with_loader_and_libc() -> None:
    found = gather_programs(["/bin/sh"])

    names = {os.path.basename(path) for path in found.libraries}
    assert any(name.startswith(b"libc.") for name in names)
    assert any(name.startswith(b"ld") for name in names)
    assert b"bin/sh" in found.programs


def test_links_keep_their_structure(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    script(tmp_path / "lib" / "tool", "#!/bin/sh")
    (tmp_path / "hop").symlink_to("lib/tool")
    (tmp_path / "tool").symlink_to(tmp_path / "hop")

    found = gather_programs([f"{tmp_path}/tool"]).programs

    inside = os.fsencode(tmp_path).lstrip(b"/")
    assert found[inside + b"/tool"].linkname == bytes(tmp_path / "hop")
    assert found[inside + b"/hop"].linkname == b"lib/tool"
    assert found[inside + b"/lib/tool"].kind == "file"


def test_libraries_are_files_under_the_asked_name() -> None:
    found = gather_programs(["/bin/sh"]).libraries

    assert {entry.kind for entry in found.values()} == {"file"}
    assert all(entry.size == os.stat(b"/" + path).st_size for path, entry in found.items())


def test_name_is_looked_up_in_program_folders() -> None:
    assert find_program("sh") in ("/usr/bin/sh", "/bin/sh")
    assert find_program("no-such-program") == ""


def test_hard_links_are_copied_once(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    script(one, "#!/bin/sh")
    other.hardlink_to(one)

    found = gather_programs([str(one), str(other)]).programs

    assert found[os.fsencode(one).lstrip(b"/")].kind == "file"
    assert found[os.fsencode(other).lstrip(b"/")].linkname == os.fsencode(one)


def test_two_ways_to_one_name_are_no_link(tmp_path: Path) -> None:
    (tmp_path / "usr").mkdir()
    (tmp_path / "bin").symlink_to("usr")
    script(tmp_path / "usr" / "tool", "#!/bin/sh")
    (tmp_path / "alias").hardlink_to(tmp_path / "usr" / "tool")

    found = gather_programs([f"{tmp_path}/bin/tool", f"{tmp_path}/usr/tool"]).programs

    kinds = {path.decode(): entry.kind for path, entry in found.items() if b"tool" in path}
    assert set(kinds.values()) == {"file"}


def test_missing_required_program_is_named() -> None:
    with pytest.raises(RecipeError, match="this host has no program no-such-program"):
        gather_programs(["no-such-program"])


def test_missing_optional_program_is_recorded() -> None:
    found = gather_programs(["sh"], ["no-such-program"])

    assert found.skipped == (
        "this host has no program no-such-program in /usr/bin /bin /usr/sbin /sbin",
    )


def test_script_brings_its_interpreter(tmp_path: Path) -> None:
    path = script(tmp_path / "tool", "#!/bin/sh -e")

    found = gather_programs([path])

    assert {os.fsencode(path).lstrip(b"/"), b"bin/sh"} <= set(found.programs)
    assert found.libraries


def test_env_script_brings_what_env_finds(tmp_path: Path) -> None:
    path = script(tmp_path / "tool", "#!/usr/bin/env -S A=1 sh")

    found = gather_programs([path])

    names = {os.path.basename(path) for path in found.programs}
    assert {b"env", b"sh", b"tool"} <= names


def test_script_without_interpreter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="names no interpreter"):
        gather_programs([script(tmp_path / "tool", "#! ")])


def test_scripts_that_call_each_other_end(tmp_path: Path) -> None:
    path = tmp_path / "tool"
    script(path, f"#!{path}")

    with pytest.raises(RecipeError, match="too many levels of interpreters"):
        gather_programs([str(path)])


def test_link_loop_is_no_program(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")

    with pytest.raises(RecipeError, match="this host has no program"):
        gather_programs([str(tmp_path / "loop")])


def test_damaged_program_is_left_out_when_optional(tmp_path: Path) -> None:
    path = tmp_path / "broken"
    path.write_bytes(b"\x7fELF" + bytes(10))
    path.chmod(0o755)

    found = gather_programs(["sh"], [str(path)])

    assert found.skipped == (f"cannot read {path}: it is not an ELF file",)
    assert os.fsencode(path).lstrip(b"/") not in found.programs


@needs("ordinary user")
def test_unreadable_program_is_left_out_when_optional(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    shutil.copy(os.path.realpath("/bin/sh"), path)
    path.chmod(0o111)

    found = gather_programs(["sh"], [str(path)])

    assert found.skipped == (f"cannot read {path}: Permission denied",)
    with pytest.raises(RecipeError, match="Permission denied"):
        gather_programs([str(path)])


def test_world_writable_program_is_never_loaded(tmp_path: Path) -> None:
    path = tmp_path / "sh"
    shutil.copy(os.path.realpath("/bin/sh"), path)
    path.chmod(0o757)

    with pytest.raises(RecipeError, match="will not load"):
        gather_programs([str(path)])


@needs("root")
def test_program_of_another_user_is_never_loaded(tmp_path: Path) -> None:
    path = tmp_path / "sh"
    shutil.copy(os.path.realpath("/bin/sh"), path)
    os.chown(path, 12345, 0)

    with pytest.raises(RecipeError, match="it belongs to user 12345"):
        check_trusted(str(path))


def test_program_cannot_choose_what_is_run(tmp_path: Path) -> None:
    libraries = Libraries(look=str)

    with pytest.raises(RecipeError, match="does not look like one"):
        libraries.of("/bin/sh", Linkage(interpreter="/bin/rm", needed=("x",)))


def test_programs_linked_alike_are_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    libraries = Libraries(look=asked.append)
    linkage = Linkage(interpreter=_loader(), needed=("libc.so.6",))

    one, other = libraries.of("/bin/sh", linkage), libraries.of("/bin/sh", linkage)

    assert one == other
    assert asked.count("/etc/ld.so.cache") == 1


def _loader() -> str:
    from pytest_rootfs.image.elf import read_linkage

    return read_linkage(Path(os.path.realpath("/bin/sh")).read_bytes()).interpreter


def test_memory_of_programs_notices_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "later"
    found = gather_programs(["sh"], [str(path)])

    before = is_unchanged(found.seen)
    script(path, "#!/bin/sh")

    assert before
    assert not is_unchanged(found.seen)


@needs("busybox")
def test_busybox_links_its_applets() -> None:
    tree = gather_applets(AppletsStep(program="busybox"))

    entries = {entry.path: entry for entry in tree.entries}
    assert entries[b"bin/busybox"].kind == "file"
    assert entries[b"bin/sh"].linkname == b"/bin/busybox"
    assert len(entries) > 100


def test_dynamic_busybox_is_refused() -> None:
    with pytest.raises(RecipeError, match="is not a static program") as caught:
        gather_applets(AppletsStep(program="sh"))

    assert "busybox-static" in caught.value.hint


def test_missing_busybox_says_how_to_get_it() -> None:
    with pytest.raises(RecipeError, match="this host has no program nobox") as caught:
        gather_applets(AppletsStep(program="nobox"))

    assert "apt-get install busybox-static" in caught.value.hint
