"""Unified diffs of two sides of a path, without a container."""

from __future__ import annotations

import difflib
import random

import pytest

from pytest_rootfs.cli.diff_stats import Stat, measure, print_stats
from pytest_rootfs.cli.diffs import Side, compare
from pytest_rootfs.textdiff import unified, unified_lines


def file(content: bytes, mode: int = 0o644, owner: str = "0:0") -> Side:
    return Side(kind="-", mode=mode, owner=owner, size=len(content), content=content)


def shown(before: Side, after: Side) -> list[str]:
    return [line.decode() for line in compare("/p", before, after)]


@pytest.mark.parametrize("seed", range(30))
def test_cut_diff_is_the_whole_diff(seed: int) -> None:
    chance = random.Random(seed)
    old = [b"%d\n" % chance.randrange(5) for _ in range(chance.randrange(60))]
    new = list(old)
    for _ in range(chance.randrange(1, 4)):
        position = chance.randrange(len(new) + 1)
        new[position : position + chance.randrange(3)] = [b"new\n"] * chance.randrange(3)
    texts = [[line.decode() for line in lines] for lines in (old, new)]

    found = b"\n".join(unified_lines(b"".join(old), b"".join(new), b"a", b"b")).decode()

    lines = found.splitlines()[2:]
    assert restored(texts[0], lines) == texts[1]
    assert (found == "") == (old == new)


def restored(old: list[str], lines: list[str]) -> list[str]:
    """Apply a unified diff, strictly."""
    new: list[str] = []
    position = 0
    for line in lines:
        if line.startswith("@@"):
            span = line.split()[1][1:]
            start = int(span.split(",")[0]) - (0 if span.endswith(",0") else 1)
            new += old[position:start]
            position = start
        elif line.startswith("+"):
            new.append(line[1:] + "\n")
        else:
            assert old[position] == line[1:] + "\n"
            if line.startswith(" "):
                new.append(old[position])
            position += 1
    return new + old[position:]


def test_diff_without_common_ends_is_difflibs() -> None:
    old, new = ["a\n", "b\n", "c\n"], ["x\n", "b\n", "y\n"]
    expected = "".join(difflib.unified_diff(old, new, "a", "b"))

    lines = unified_lines("".join(old).encode(), "".join(new).encode(), b"a", b"b")

    assert b"".join(line + b"\n" for line in lines).decode() == expected


def test_carriage_returns_stay_in_lines() -> None:
    assert shown(file(b"a\rb\r\n"), file(b"a\rc\r\n"))[3:] == ["-a\rb\r", "+a\rc\r"]


def test_missing_last_newline_is_told() -> None:
    assert shown(file(b"a"), file(b"a\n"))[3:] == ["-a", "\\ No newline at end of file", "+a"]


def test_huge_rewrite_is_not_compared() -> None:
    old = b"".join(b"%d\n" % number for number in range(30_000))
    new = b"".join(b"x%d\n" % number for number in range(30_000))

    assert shown(file(old), file(new))[2:] == [
        "too many lines differ to compare: 30000 -> 30000 lines"
    ]


def test_huge_file_that_came_or_went_is_shown() -> None:
    text = file(b"".join(b"%d\n" % number for number in range(30_000)))

    assert shown(Side(), text)[3:] == ["@@ -0,0 +1,30000 @@", *(f"+{n}" for n in range(30_000))]
    assert shown(text, Side())[-1] == "-29999"


def test_huge_rewrite_of_one_file_is_bounded() -> None:
    old = b"".join(b"%d\n" % number for number in range(30_000))

    assert "too many lines differ" in unified("/p", old, old.replace(b"\n", b"x\n"))


def test_small_change_in_a_huge_file_is_compared() -> None:
    old = b"".join(b"%d\n" % number for number in range(100_000))

    lines = shown(file(old), file(old.replace(b"\n500\n", b"\nfive hundred\n")))

    assert lines[2] == "@@ -498,7 +498,7 @@"
    assert "+five hundred" in lines


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (file(b"a\0"), file(b"b\0c"), ["binary file /p: 2 -> 3 bytes"]),
        (file(b"a\0"), file(b"a\0"), []),
        (file(b"a"), file(b"a", mode=0o755), ["mode of /p: 0644 -> 0755"]),
        (file(b"a"), file(b"a", owner="5:6"), ["owner of /p: 0:0 -> 5:6"]),
        (Side(), Side(kind="d", mode=0o700), ["added directory: /p, mode 0700"]),
        (Side(kind="p"), Side(), ["deleted fifo: /p"]),
        (Side(kind="l", target="a"), Side(kind="l", target="b"), ["symlink /p: a -> b"]),
        (Side(kind="d"), Side(kind="l", target="x"), ["directory became symlink: /p -> x"]),
        (Side(), file(b""), ["added file: /p, mode 0644"]),
    ],
)
def test_what_is_no_text_is_a_line(before: Side, after: Side, expected: list[str]) -> None:
    assert shown(before, after) == expected


def test_names_are_escaped() -> None:
    before, after = Side(kind="l", target="a\x1b[2J"), Side(kind="l", target="b\udcff")

    lines = list(compare("/p\nq\udcfe", before, after))

    assert lines == [rb"symlink /p\x0aq\xfe: a\x1b[2J -> b\xff"]


def test_file_that_became_a_folder_is_deleted() -> None:
    assert shown(file(b"a\n"), Side(kind="d", mode=0o755, owner="0:0")) == [
        "file became directory: /p",
        "--- a/p",
        "+++ /dev/null",
        "@@ -1 +0,0 @@",
        "-a",
    ]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (file(b"a\n"), file(b"b\nc\n"), Stat(path="/p", added=2, removed=1)),
        (Side(), file(b"--- x\n+++ y\n"), Stat(path="/p", added=2)),
        (file(b"-- x\n"), Side(), Stat(path="/p", removed=1)),
        (Side(), file(b""), Stat(path="/p")),
        (file(b"a\0"), file(b"b\0c"), Stat(path="/p", remarks=("binary 2 -> 3 bytes",))),
        (file(b"a"), file(b"a", mode=0o755), Stat(path="/p", remarks=("mode 0644 -> 0755",))),
        (Side(), Side(kind="d", mode=0o700), Stat(path="/p", remarks=("added directory",))),
        (Side(kind="p"), Side(), Stat(path="/p", remarks=("deleted fifo",))),
        (
            Side(kind="l", target="a"),
            Side(kind="l", target="/p"),
            Stat(path="/p", remarks=("symlink a -> /p",)),
        ),
        (Side(kind="d"), Side(kind="l"), Stat(path="/p", remarks=("directory became symlink",))),
    ],
)
def test_stat_counts_lines(before: Side, after: Side, expected: Stat) -> None:
    assert measure("/p", compare("/p", before, after)) == expected


def test_stat_of_a_rewrite_says_so() -> None:
    old = b"".join(b"%d\n" % number for number in range(30_000))

    stat = measure("/p", compare("/p", file(old), file(old.replace(b"\n", b"x\n"))))

    assert stat.remarks == ("too many lines differ to compare: 30000 -> 30000 lines",)


def test_stats_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    print_stats(
        [
            Stat(path="/etc/a", added=1000, removed=1),
            Stat(path="/etc/longer\udcff", added=3),
            Stat(path="/x", remarks=("mode 0644 -> 0755",)),
            Stat(path="/y"),
        ]
    )

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(" /etc/a          | 1001 +++++")
    assert lines[0].endswith("+-")
    assert len(lines[0]) <= 80
    assert lines[1:] == [
        " /etc/longer\\xff |    3 +",
        " /x              | mode 0644 -> 0755",
        " /y              |    0",
        " 4 paths changed, 1003 insertions(+), 1 deletion(-)",
    ]
