"""Have systemd put the calling process into a control group that is ours to divide: a scope.

For an ordinary user whose login session is not delegated. The user's own service manager makes a
transient scope with `Delegate=yes` and moves us there, which we could not do ourselves: it takes
write access to the common ancestor. systemd removes the scope, with every folder below it, when
its last process has ended; also after `kill -9`.

Source: org.freedesktop.systemd1(5), "StartTransientUnit"; systemd.scope(5); CGROUP_DELEGATION.md.
"""

from __future__ import annotations

import errno
import os
import time

from pytest_rootfs.kernel import cgroups_files as files
from pytest_rootfs.kernel import cgroups_v2 as v2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

TIMEOUT_S = 5.0
DESCRIPTION = "Containers of pytest-rootfs"
_SERVICE = "org.freedesktop.systemd1"
_MANAGER = (_SERVICE, "/org/freedesktop/systemd1", f"{_SERVICE}.Manager")
_MATCH = f"type='signal',sender='{_SERVICE}',interface='{_SERVICE}.Manager',member='JobRemoved'"
_PRIVATE = "/systemd/private"
"""The manager's own socket, which is there without a bus daemon, too."""


def systemd_sockets(environment: Mapping[str, str]) -> list[str]:
    """Return the sockets at which our user's systemd may listen, best first; none for root.

    Root needs no scope: every folder is writable. An abstract socket begins with a zero byte.
    """
    uid = os.geteuid()
    if uid == 0:
        return []
    folders = [environment.get("XDG_RUNTIME_DIR", ""), f"/run/user/{uid}"]
    found = [
        *_unix_addresses(environment.get("DBUS_SESSION_BUS_ADDRESS", "")),
        *(f"{folder}/bus" for folder in folders if folder),
        *(f"{folder}{_PRIVATE}" for folder in folders if folder),
    ]
    return [address for address in dict.fromkeys(found) if _may_be_ours(address, uid)]


def unit_name() -> str:
    """Return the name of the calling process's scope, which is also its folder's."""
    return f"{files.session_name()}.scope"


def controllers(ancestry: Sequence[str], otherwise: tuple[str, ...]) -> tuple[str, ...]:
    """Return the controllers that a scope would have: those given to the user's systemd.

    `ancestry` is our own folder and those above it; `otherwise` is the answer where none of them
    has the usual place of a user's systemd.
    """
    name = f"user@{os.geteuid()}.service"
    for folder in ancestry:
        for place in (folder, f"{folder}/{name}"):
            if os.path.basename(place) == name and os.path.isdir(place):
                return v2.available_in(place)
    return otherwise


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
    from pytest_rootfs.kernel import dbus  # noqa: PLC0415  the head of a report only looks

    bus = (dbus.BUS, dbus.BUS_PATH, dbus.BUS)
    unit = unit_name()
    with dbus.Connection(address, timeout_s, signal="JobRemoved") as connection:
        if not address.endswith(_PRIVATE):
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


def _unix_addresses(text: str) -> Iterator[str]:
    """Yield the unix sockets in a D-Bus address list: `unix:path=/run/bus,guid=…;tcp:…`."""
    for entry in text.split(";"):
        transport, _, rest = entry.partition(":")
        keys = dict(pair.partition("=")[::2] for pair in rest.split(","))
        if transport == "unix" and "path" in keys:
            yield _unescaped(keys["path"])
        elif transport == "unix" and "abstract" in keys:
            yield "\0" + _unescaped(keys["abstract"])


def _unescaped(text: str) -> str:
    """Undo `%20`: an address's bytes beyond letters, digits and `-_/.*` are so written."""
    first, *escaped = text.encode().split(b"%")
    try:
        parts = [bytes([int(part[:2], 16)]) + part[2:] for part in escaped]
    except ValueError:
        return ""
    path = first + b"".join(parts)
    return "" if b"\0" in path else os.fsdecode(path)


def _may_be_ours(address: str, uid: int) -> bool:
    if address.startswith("\0"):
        return True  # who listens there is asked after connecting
    try:
        return os.stat(address).st_uid == uid
    except (OSError, ValueError):
        return False
