"""Live whole lives of containers, phase by phase, under strace; print who took part in each.

`python budget_lives.py STORE cold|ahead LIVES`. A phase begins and ends with an access(2) to a name
that is its mark in the trace: `/LIFE/PHASE/begins`, `answered`, `ends`. It ends when all processes
sleep, so what is done after the answer counts as well.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from process_table import children_of, descendants_of, nursery_of, only_child_of, stat_fields

from pytest_rootfs.engine import Engine, EngineSettings
from pytest_rootfs.runtime import ids

LESSONS = 3
"""Lives before those that count: the next plan is learnt, and nothing is imported any more."""

LOOK_S = 0.01
MINFLT = 7  # of the fields behind the name in proc_pid_stat(5)


class Life:
    """Who takes part in one life, and the page faults and descriptors of each after each phase."""

    def __init__(self, engine: Engine, number: int) -> None:
        self._engine = engine
        self._number = number
        warden = engine.session._process.pid
        self._spawner = only_child_of(warden)
        self.roles = {os.getpid(): "pytest", warden: "warden", self._spawner: "spawner"}
        self.roles[nursery_of(self._spawner)] = "nursery"
        self.looks: list[dict[int, tuple[int, int]]] = []

    def live(self) -> None:
        """Start a container, run a command, close it."""
        self._look()
        with self._phase("start"):
            container = self._engine.start("minimal")
        self.roles[container.pid] = "init"
        for pid in children_of(self._spawner):
            self.roles.setdefault(pid, "next init")
        with self._phase("run"):
            container.run(["true"])
        with self._phase("close"):
            container.close()

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        mark(f"/{self._number}/{name}/begins")
        yield
        mark(f"/{self._number}/{name}/answered")
        wait_until_all_sleep()
        mark(f"/{self._number}/{name}/ends")
        self._look()

    def _look(self) -> None:
        pids = [os.getpid(), *descendants_of(os.getpid())]
        self.looks.append({pid: (faults(pid), descriptors(pid)) for pid in pids})


def mark(name: str) -> None:
    os.access(name, os.F_OK)


def faults(pid: int) -> int:
    return int(stat_fields(pid)[MINFLT])


def descriptors(pid: int) -> int:
    """Count them; none where an ordinary user may not look: root's budget has those."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except PermissionError:
        return 0


def wait_until_all_sleep() -> None:
    """Wait until no process of ours has anything to do: all asleep, and none woken since."""
    last: object = None
    while True:
        looks = [activity(pid) for pid in descendants_of(os.getpid())]
        if looks == last and all(state == "S" for state, _ in looks):
            return
        last = looks
        time.sleep(LOOK_S)


def activity(pid: int) -> tuple[str, list[str]]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return "gone", []
    return stat_fields(pid)[0], [line for line in lines if "ctxt_switches" in line]


def main(store: str, mode: str, lives: str) -> None:
    """Live, and print each life as JSON."""
    engine = Engine(EngineSettings(store=Path(store), makes_ahead=mode == "ahead"), warn=print)
    if os.getuid():  # newuidmap has no rights under strace
        engine._ids = ids._single(os.getuid(), os.getgid(), ids.NO_GAP)
    for _ in range(LESSONS):
        with engine.start("minimal") as container:
            container.run(["true"])
    wait_until_all_sleep()
    lived = [Life(engine, number) for number in range(int(lives))]
    for life in lived:
        life.live()
    engine.close()
    json.dump([{"roles": life.roles, "looks": life.looks} for life in lived], sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
