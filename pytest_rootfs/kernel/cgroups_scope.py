"""Have systemd put the calling process into a control group that is ours to divide: a scope.

For an ordinary user whose login session is not delegated. The user's own service manager makes a
transient scope with `Delegate=yes` and moves us there, which we could not do ourselves: it takes
write access to the common ancestor. systemd removes the scope, with every folder below it, when
its last process has ended; also after `kill -9`.

Source: org.freedesktop.systemd1(5), "StartTransientUnit"; systemd.scope(5); CGROUP_DELEGATION.md.
"""

from __future__ import annotations

import errno
import time

from pytest_rootfs.kernel.cgroups_places import PRIVATE_SOCKET
from pytest_rootfs.kernel.cgroups_rights import unit_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

TIMEOUT_S = 5.0
DESCRIPTION = "Containers of pytest-rootfs"
_SERVICE = "org.freedesktop.systemd1"
_MANAGER = (_SERVICE, "/org/freedesktop/systemd1", f"{_SERVICE}.Manager")
_MATCH = f"type='signal',sender='{_SERVICE}',interface='{_SERVICE}.Manager',member='JobRemoved'"


def enter(sockets: Sequence[str], timeout_s: float = TIMEOUT_S) -> None:
    """Have the calling process moved into a new scope by the first systemd that does it.

    Raises OSError with what the most helpful of them said.
    """
    deadline = time.monotonic() + timeout_s
    refusals: list[OSError] = []
    for number, address in enumerate(sockets):
        share_s = (deadline - time.monotonic()) / (len(sockets) - number)
        try:
            _enter_by(address, share_s)
        except OSError as error:
            refusals.append(_explained(error, address))
        else:
            return
    answers = [refusal for refusal in refusals if refusal.errno == errno.EREMOTEIO]
    raise (answers or refusals or [OSError(errno.ENOENT, "no systemd user manager runs")])[0]


def _enter_by(address: str, timeout_s: float) -> None:
    from pytest_rootfs.kernel import dbus  # noqa: PLC0415  few hosts need it

    bus = (dbus.BUS, dbus.BUS_PATH, dbus.BUS)
    unit = unit_name()
    with dbus.Connection(address, timeout_s, signal="JobRemoved") as connection:
        if not address.endswith(PRIVATE_SOCKET):
            connection.call(bus, "Hello")
            connection.call(bus, "AddMatch", "s", (_MATCH,))
        connection.call(
            _MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))", (unit, "fail", _properties(), [])
        )
        for values in connection.signals():
            if len(values) == 4 and values[2] == unit:
                if values[3] == "done":
                    return
                raise dbus.ErrorReply("", f"its job for {unit} ended with {values[3]!a}")


def _properties() -> list[tuple[str, tuple[str, object]]]:
    """Describe the scope; process 0 is the caller, also from another pid namespace."""
    return [
        ("Description", ("s", DESCRIPTION)),
        ("PIDs", ("au", [0])),
        ("Delegate", ("b", True)),
        ("CollectMode", ("s", "inactive-or-failed")),
    ]


def _explained(error: OSError, address: str) -> OSError:
    words = (error.strerror or str(error)).replace("; ", ", ").strip().rstrip(".")
    return OSError(error.errno, words, address.replace("\0", "@"))
