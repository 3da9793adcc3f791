"""The texts of a report."""

from __future__ import annotations

import pytest

from pytest_rootfs import head, report
from pytest_rootfs.changeset import Change, Changes
from pytest_rootfs.failure_record import KeptContainer, KeptImage


def kept(name: str = "c1", **fields: object) -> KeptContainer:
    image = KeptImage(name="minimal", digest="sha256:0")
    return KeptContainer(name=name, image=image, **fields)  # type: ignore[arg-type]  # of a test


def change(path: str, kind: str = "added", of: str = "file") -> dict[str, object]:
    return {"path": path, "kind": kind, "type": of}


def test_changes_are_one_a_line() -> None:
    found = kept(changes=(change("/a"), change("/d", "deleted", "dir"), change("/m", "modified")))

    assert report.sections([found]) == [
        ("rootfs changes", "added     /a\ndeleted   /d/\nmodified  /m")
    ]


def test_many_changes_end_in_a_count() -> None:
    found = kept(changes=tuple(change(f"/f{number}") for number in range(51)))

    lines = report.sections([found])[0][1].splitlines()

    assert (len(lines), lines[0], lines[-1]) == (50, "added     /f0", "… and 2 more")


def test_fifty_changes_are_all_shown() -> None:
    found = kept(changes=tuple(change(f"/f{number}") for number in range(50)))

    assert report.sections([found])[0][1].splitlines()[-1] == "added     /f49"


def test_file_name_cannot_steer_the_terminal() -> None:
    found = kept(changes=(change("/a\x1b[2J\n\udcff"),))

    assert report.sections([found])[0][1] == r"added     /a\x1b[2J\n\udcff"


def test_commands_have_status_and_output() -> None:
    commands = (
        {"argv": ["echo", "a b"], "returncode": 0, "duration_s": 0.012, "output_tail": "a b\n"},
        {"argv": ["sh"], "returncode": -9, "duration_s": 1.5, "output_tail": ""},
        {"argv": ["sleep", "9"], "returncode": -9, "duration_s": 2, "timed_out": True},
        {"argv": ["daemon"], "returncode": None, "duration_s": None, "output_tail": ""},
        {"argv": ["id"], "returncode": None, "duration_s": None, "started": False},
        {"argv": ["x"], "returncode": 3, "duration_s": 0, "output_tail": "\x1b[31mred"},
    )

    assert report.sections([kept(commands=commands)]) == [
        (
            "rootfs commands",
            (
                "$ echo 'a b'  [exit status 0, 0.01 s]\n"
                "  a b\n"
                "$ sh  [killed by SIGKILL, 1.50 s]\n"
                "$ sleep 9  [timed out, killed, 2.00 s]\n"
                "$ daemon  [still running]\n"
                "$ id  [not started]\n"
                "$ x  [exit status 3, 0.00 s]\n"
                r"  \x1b[31mred"
            ),
        )
    ]


def test_only_the_last_commands_are_shown() -> None:
    tail = "".join(f"line {number}\n" for number in range(12))
    command = {"argv": ["x"], "returncode": 0, "duration_s": 0.0, "output_tail": tail}

    lines = report.sections([kept(commands=(command,) * 12)])[0][1].splitlines()

    assert lines[:4] == ["… 2 earlier commands", "$ x  [exit status 0, 0.00 s]", "  …", "  line 2"]
    assert len(lines) == 1 + 10 * 12


def test_limits_and_gaps_have_sections() -> None:
    found = kept(limits_hit=("memory: killed",), gaps=("files: disk full",))

    assert report.sections([found]) == [
        ("rootfs limits", "memory: killed"),
        ("rootfs failure", "files: disk full"),
    ]


def test_several_containers_are_told_apart() -> None:
    found = [kept("a", changes=(change("/x"),)), kept("b"), kept("c", changes=(change("/y"),))]

    assert report.sections(found) == [
        (
            "rootfs changes",
            "container a (minimal):\nadded     /x\ncontainer c (minimal):\nadded     /y",
        )
    ]


def test_header_is_one_line() -> None:
    line = head.line(
        mode="rootless", cgroup="v2", images=["minimal"], digest="sha256:12ab34cd56ef7890"
    )

    assert line == "rootfs: rootless, cgroup v2, image minimal (sha256:12ab34cd56ef…)"


def test_header_says_what_is_missing() -> None:
    line = head.line(mode="rootful", cgroup="none", images=["minimal"], digest=None)

    assert line == "rootfs: rootful, no cgroup, image minimal (digest not known yet)"


def test_header_says_why_ids_and_limits_are_missing() -> None:
    line = head.line(
        mode="rootless, single id",
        cgroup="v2",
        images=["minimal"],
        digest=None,
        id_gap="user bob has no range in /etc/subuid",
        limit_gap="no limits on memory: control groups are mounted read-only",
    )

    assert line == (
        "rootfs: rootless, single id (user bob has no range in /etc/subuid), cgroup v2 (no limits "
        "on memory: control groups are mounted read-only), image minimal (digest not known yet); "
        "`pytest-rootfs doctor` has the repair"
    )


def test_header_lists_several_images() -> None:
    line = head.line(mode="rootful", cgroup="v1", images=["a", "b"], digest=None)

    assert line == "rootfs: rootful, cgroup v1, images a, b"


def test_unequal_changes_are_explained() -> None:
    changes = Changes(
        [
            Change(path="/both", kind="added", type="file"),
            Change(path="/extra", kind="deleted", type="file"),
            Change(path="/other", kind="modified", type="file"),
        ]
    )

    lines = report.explain_changes(
        changes, {"/both": "added", "/missing": "added", "/other": "added"}
    )

    assert lines == [
        "the changes differ from the expected ones in 3 paths",
        "missing     /missing (added)",
        "unexpected  /extra (deleted)",
        "differs     /other (is modified, expected added)",
    ]


@pytest.mark.parametrize("expression", ["changes == want", "want == changes", "changes == other"])
def test_failed_assert_explains_changes(pytester: pytest.Pytester, expression: str) -> None:
    pytester.makepyfile(
        f"""
        from pytest_rootfs import Change, Changes

        def test_it():
            changes = Changes([Change(path="/is", kind="added", type="file")])
            other = Changes([Change(path="/want", kind="added", type="file")])
            want = {{"/want": "added"}}
            assert {expression}
        """
    )

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E  *differ*in 2 paths", "E  *missing*/want*", "E  *unexp*/is*"])


def test_changes_that_differ_only_in_detail_say_so() -> None:
    one = Changes([Change(path="/a", kind="modified", type="file", after={"mode": 1})])
    two = Changes([Change(path="/a", kind="modified", type="file", after={"mode": 2})])

    assert report.explain_changes(one, two) == [
        "the changes differ from the expected ones in 1 path",
        "differs     /a (after: {'mode': 1}, expected {'mode': 2})",
    ]
