"""Start the warden and the spawner, and talk to them; one session for one engine.

The warden is started with `subprocess`, so the size of the pytest process does not matter and none
of its threads, locks and buffers is copied. It has a process session of its own: Ctrl-C reaches
pytest alone, which then ends everything in order.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_rootfs import errors
from pytest_rootfs.errors import HostUnsupported, RootfsError
from pytest_rootfs.kernel import cgroups
from pytest_rootfs.runtime import host_reasons, ids, protocol, starts, subordinate_ids
from pytest_rootfs.runtime.client import Conversation, Peer, PeerGone, StepFailed
from pytest_rootfs.runtime.surroundings import Surroundings

JOB_TIMEOUT_S = 600.0
ENDING_S = 15.0
ID_TIMEOUT_S = 5.0
ANSWER_S = 5.0

_PROGRAM = (
    "import sys; sys.path.insert(0, {package!r}); "
    "from pytest_rootfs.runtime.warden import main; main({fd})"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """A container as the spawner hands it over; `pid` is the host's, of its init."""

    container_id: str
    pid: int
    pidfd: int
    """Readable when init, and so everything in the container, is dead; pidfd_open(2)."""
    peer: Peer


class Session:
    """The processes of one engine, from the first container to `close`."""

    def __init__(
        self, own_ids: ids.Ids, layers_fd: int, layers_path: Path, *, makes_ahead: bool
    ) -> None:
        """Start them; raises HostUnsupported with the way out.

        `layers_fd` is the folder of layers unpacked for these ids, at `layers_path`.
        `makes_ahead` allows the spawner to make the next container while a test runs.
        """
        if gap := host_reasons.old_kernel(Surroundings.read()):
            raise HostUnsupported(gap.reason, hint=gap.repair)
        self.ids = own_ids
        self._makes_ahead = makes_ahead
        self._plans: set[str] = set()
        self._owner_pid = os.getpid()
        with contextlib.ExitStack() as opened:
            own_warden, far_warden = map(opened.enter_context, protocol.pair())
            own_spawner, far_spawner = map(opened.enter_context, protocol.pair())
            self._process = _start_warden(far_warden.fileno())
            far_warden.close()  # what waits in it ends with the warden, and so do our calls
            self._warden = Peer(own_warden)
            self.spawner = Peer(own_spawner)
            opened.callback(self.close)
            answer = self._enter(far_spawner.fileno(), layers_fd, layers_path)
            far_spawner.close()
            features = self._features()
            opened.pop_all()
        self.cgroup_kind = str(answer["cgroup"]["kind"])
        self.controllers: dict[str, bool] = dict(answer["cgroup"]["controllers"])
        self.limit_reasons: dict[str, str] = dict(answer["cgroup"]["reasons"])
        self.controllers["disk"] = bool(features["disk_limit"])
        on_disk = host_reasons.rw_on_disk(Surroundings.read())
        self.limit_reasons["disk"] = f"{on_disk.reason}; {on_disk.repair}"

    @property
    def is_alive(self) -> bool:
        """Tell whether warden and spawner still run."""
        return self._process.poll() is None

    @property
    def answers(self) -> bool:
        """Whether the spawner answers a call that needs next to nothing."""
        try:
            self.spawner.call({"op": "features"}, timeout_s=ANSWER_S)
        except (PeerGone, OSError) as error:
            # without descriptors of our own we cannot ask, and end nothing for that
            return isinstance(error, OSError) and error.errno == errno.EMFILE
        return True

    def create(self, key: str, plan: Mapping[str, Any], tree_fds: Sequence[int]) -> Created:
        """Have a container of a plan made; returns when it is ready.

        One whose process 1 somebody kills before it has started is made once more. Raises
        ContainerError, and then nothing of it is left; PeerGone when the spawner is gone.
        """
        message = {"op": "create", "plan": key}
        try:
            return self._begin(message, plan, tree_fds)
        except starts.InitEnded:
            pass
        return self._begin_for_good(message, plan, tree_fds)

    def restart(
        self,
        container_id: str,
        key: str,
        plan: Mapping[str, Any],
        tree_fds: Sequence[int],
        *,
        is_emptied: bool = False,
    ) -> Created:
        """Have a container begin anew with the cgroups and the rw layer that it has, or a new one.

        Raises as `create` does, and then it is dead and keeps both.
        """
        message = {"op": "restart", "id": container_id, "plan": key, "is_emptied": is_emptied}
        created = self._begin_for_good(message, plan, tree_fds)
        if is_emptied:
            self.spawner.tell({"op": "settle", "id": container_id, "is_ready": True})
        return created

    def _begin_for_good(
        self, message: Mapping[str, Any], plan: Mapping[str, Any], tree_fds: Sequence[int]
    ) -> Created:
        try:
            return self._begin(message, plan, tree_fds)
        except starts.InitEnded as error:
            raise starts.died(error.status) from error

    def _begin(
        self, message: Mapping[str, Any], plan: Mapping[str, Any], tree_fds: Sequence[int]
    ) -> Created:
        key = message["plan"]
        if key not in self._plans:
            self.spawner.call({"op": "plan", "key": key, "plan": plan})
            self._plans.add(key)
        conversation = self.spawner.ask(message, tree_fds)
        answers: dict[str, Any] = {}
        fds: list[int] = []
        try:
            while not answers.keys() >= {"id", "ready"}:  # of spawner and init, in either order
                answer, given = conversation.receive()
                answers.update(answer)
                fds += given
                if "unknown_plan" in answer:
                    self._plans.clear()
                    return self._begin(message, plan, tree_fds)
        except (StepFailed, PeerGone) as error:
            _await_id(conversation, answers, fds)
            protocol.close_all(fds)
            fds.clear()
            ended = self._give_up(str(answers["id"]), message["op"]) if "id" in answers else None
            if isinstance(error, StepFailed):
                raise starts.refused(error, plan) from error
            if ended is None:
                raise
            raise starts.InitEnded(ended) from error
        except BaseException as error:
            if isinstance(error, protocol.NoRoom):
                answers.update(error.message)
            _await_id(conversation, answers, fds)
            protocol.close_all(fds)
            if "id" in answers:
                self.spawner.tell(_disposal(message["op"], answers["id"]))
            raise
        finally:
            conversation.close()
        socket_fd, pidfd = fds
        return Created(
            container_id=str(answers["id"]),
            pid=int(answers["pid"]),
            pidfd=pidfd,
            peer=Peer(protocol.end_of(socket_fd)),
        )

    def _give_up(self, container_id: str, op: str) -> int:
        """Dispose of a container that did not start; return the wait status of its init."""
        message = {"op": "status", "id": container_id, "wait_s": 1}
        status: int | None = self.spawner.call(message)[0]["status"]
        self.spawner.tell(_disposal(op, container_id))
        return signal.SIGKILL if status is None else status

    def tree(self, path: str, *, readonly: bool, recursive: bool = True) -> int:
        """Return a detached copy of a host tree; id-mapped when root."""
        peer = self._warden if self.ids.mode == "rootful" else self.spawner
        message = {"op": "tree", "path": path, "readonly": readonly, "recursive": recursive}
        _, fds = peer.call(message)
        return fds[0]

    def job(
        self,
        function: str,
        args: Mapping[str, object],
        fds: Sequence[int],
        *,
        layers: Sequence[str] = (),
        between: Sequence[str] = (),
        trees: Sequence[int] = (),
    ) -> dict[str, Any]:
        """Run a function of `store.jobs` inside the user namespace; return what it returns.

        `between`, then `layers` (both topmost first) are opened there and follow `fds`; `trees`
        says which of `fds` are folders that it mounts or pivots into. Raises what it raised.
        """
        message = {
            "op": "job",
            "module": "pytest_rootfs.store.jobs",
            "function": function,
            "args": args,
            "layers": list(layers),
            "between": list(between),
            "trees": list(trees),
        }
        try:
            answer, _ = self._warden.call(message, fds, timeout_s=JOB_TIMEOUT_S)
        except StepFailed as error:
            if unsupported := host_reasons.unsupported(error):
                raise unsupported from error
            raise
        if "raised" in answer:
            raise _rebuilt(answer["raised"], function)
        return answer

    def close(self) -> None:
        """End every process and remove the cgroups; returns when they are gone. Idempotent."""
        for peer in (self.spawner, self._warden):
            if os.getpid() == self._owner_pid:
                peer.end()
            else:  # a fork has inherited the session, and does not end it
                peer.close()
        try:
            self._process.wait(ENDING_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _enter(self, spawner_fd: int, layers_fd: int, layers_path: Path) -> dict[str, Any]:
        own = self.ids
        message = {
            "op": "start",
            "rootful": own.mode == "rootful",
            "uid_map": own.uid_map,
            "gid_map": own.gid_map,
            "helpers": {
                "uid_map": subordinate_ids.find_helper("newuidmap") if own.needs_helper else None,
                "gid_map": subordinate_ids.find_helper("newgidmap") if own.needs_helper else None,
            },
            "layers_path": str(layers_path),
            "makes_ahead": self._makes_ahead,
            "cgroup": os.environ.get(cgroups.SETTING),
            "systemd": cgroups.systemd_sockets(os.environ),
        }
        try:
            answer, _ = self._warden.call(message, [spawner_fd, layers_fd])
        except StepFailed as error:
            raise starts.no_session(error) from error
        except PeerGone as error:
            raise starts.killed("warden") from error
        return answer

    def _features(self) -> dict[str, Any]:
        """Return what the spawner can do; its first answer says what it could not prepare."""
        try:
            return self.spawner.call({"op": "features"})[0]
        except StepFailed as error:
            raise starts.no_session(error) from error
        except PeerGone as error:
            raise starts.killed("spawner") from error


def _disposal(op: str, container_id: str) -> dict[str, Any]:  # Any: JSON
    """Return the message that ends what `op` has begun: one that restarts keeps its rw layer."""
    if op == "restart":
        return {"op": "settle", "id": container_id, "is_ready": False}
    return {"op": "release", "id": container_id}


def _start_warden(fd: int) -> subprocess.Popen[bytes]:
    package = str(Path(errors.__file__).parent.parent)
    program = _PROGRAM.format(package=package, fd=fd)
    return subprocess.Popen(
        [_interpreter(), "-I", "-S", "-c", program],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=None if os.environ.get("PYTEST_ROOTFS_DEBUG") else subprocess.DEVNULL,
        pass_fds=[fd],
        start_new_session=True,
        cwd="/",
        env={"LANG": "C.UTF-8"},
    )


def _interpreter() -> str:
    """Return this interpreter; a virtual environment's link to it would be followed anyway."""
    with contextlib.suppress(OSError):
        return os.path.realpath(sys.executable, strict=True)
    return sys.executable


def _await_id(conversation: Conversation, answers: dict[str, Any], fds: list[int]) -> None:
    """Read on until the spawner has told the id of a container that nobody wants any more."""
    try:
        while "id" not in answers:
            answer, given = conversation.receive(ID_TIMEOUT_S)
            answers.update(answer)
            fds += given
    except protocol.NoRoom as error:
        answers.update(error.message)
    except (StepFailed, PeerGone, TimeoutError):
        pass  # it has made none


def _rebuilt(raised: Mapping[str, str], function: str) -> Exception:
    """Return the error that a job raised: ours by its class, anything else as a defect."""
    kind = getattr(errors, raised["class"], None)
    if isinstance(kind, type) and issubclass(kind, RootfsError):
        return kind(raised["what"], detail=raised["detail"], hint=raised["hint"])
    return RuntimeError(f"{function}: {raised['class']}: {raised['text']}; please report this")
