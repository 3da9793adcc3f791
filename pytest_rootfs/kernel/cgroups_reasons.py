"""Say why a controller cannot be used here: the cause, then "; " and how to repair it.

The same sentences stand in errors, in warnings and in what `pytest-rootfs doctor` prints.
"""

from __future__ import annotations

import errno
import os

from pytest_rootfs.kernel import cgroups_layout as layout
from pytest_rootfs.kernel import cgroups_rights as rights
from pytest_rootfs.kernel.cgroups_layout import SETTING
from pytest_rootfs.kernel.proc_files import read_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_rootfs.kernel.cgroups_layout import Mount

_DELEGATE = "run `systemd-run --user --scope --property=Delegate=yes pytest …`"
_DELEGATE_ALL = (
    "put `[Service]` and `Delegate=cpu cpuset io memory pids` into "
    "/etc/systemd/system/user@.service.d/delegate.conf"
)
NO_USER_MANAGER = "no systemd user manager runs"
START_USER_MANAGER = "sudo loginctl enable-linger $USER"
_SYSTEMD_RUNS = "/run/systemd/system"
"""Exists where systemd is process 1 (sd_booted(3))."""


def of_refused_folder(mount: Mount, error: OSError) -> str:
    """Say why a folder could not be made."""
    what = f"{error.filename}: {error.strerror}"
    if mount.is_read_only or error.errno == errno.EROFS:
        return of_read_only(mount)
    if frozen := _frozen_above(str(error.filename), mount.path):
        return (
            f"{frozen} is frozen, so nothing in it would ever run; "
            f"thaw it, `echo 0 > {frozen}/cgroup.freeze`, or name another folder in {SETTING}"
        )
    if error.errno not in (errno.EACCES, errno.EPERM):
        return f"{what}; name a folder that can be used in {SETTING}"
    if mount.version == 2:
        return f"{what}; {_DELEGATE}, or run pytest as root"
    return (
        f"{what}; run pytest as root, or let root make a folder for you, `mkdir {mount.path}/tests "
        f"&& chown -R $USER {mount.path}/tests` and so in every hierarchy, and set {SETTING}=tests"
    )


def of_read_only(mount: Mount) -> str:
    """Say that no folder can be made below a mount."""
    return (
        f"{mount.path} is mounted read-only, as in a container without privileges; "
        "start that container with --privileged"
    )


def of_undelegated(own: str | None) -> str:
    """Say that we may not divide our own folder; this is only a cause, without a repair."""
    return f"{own} is not delegated to us"


def of_no_folder(mount: Mount, explicit: str | None) -> str:
    """Say why there is not even a folder to try."""
    if explicit is not None:
        return (
            f"{SETTING}={explicit} names no folder below {mount.path} with usable controllers; "
            f"correct it, or unset it"
        )
    if mount.own is None:
        return (
            f"our own control group lies outside of what is mounted at {mount.path}; "
            f"name a folder below it in {SETTING}"
        )
    if rights.is_namespace_root(mount, mount.own):
        return (
            f"{mount.own} holds processes that are not of this session, such as "
            f"{_named(rights.strangers(mount.own))}; "
            f"set {SETTING}={mount.own} to have them moved into {rights.LEAF} below it"
        )
    what = f"no controller is enabled for the children of {mount.own} or above it"
    if os.access(mount.own, os.W_OK):
        return f"{what}; set {SETTING}={mount.own} to have its processes moved into a leaf for that"
    return f"{what}; {_DELEGATE}, or run pytest as root"


def of_no_scope(own: str | None, error: OSError) -> str:
    """Say why systemd did not give an ordinary user a folder."""
    what = of_undelegated(own)
    if not os.path.isdir(_SYSTEMD_RUNS):
        return (
            f"{what}, and there is no systemd here that could give us a folder; run pytest as root"
        )
    if error.errno == errno.ENOENT and error.filename is None:
        return (
            f"{what}, and {NO_USER_MANAGER} that could; "
            f"start it, `{START_USER_MANAGER}`, or run pytest as root"
        )
    return (
        f"{what}, and systemd at {error.filename} gives us no scope: {error.strerror}; "
        "look at `systemctl --user status`, or run pytest as root"
    )


def of_not_given(name: str, base: str, refusal: str | None) -> str:
    """Say why a controller is not among those of the folder that was found.

    `refusal` is what happened when it was to be enabled in a new folder there.
    """
    if refusal is not None:
        return f"{refusal}; name a folder that can be used in {SETTING}, or boot another kernel"
    if name in layout.available_in(base):
        return (
            f"the {name} controller is not enabled for the children of {base}; "
            f"{_DELEGATE}, or run pytest as root"
        )
    return (
        f"the {name} controller is not delegated to {base}; "
        f"let root {_DELEGATE_ALL}, and log in again"
    )


def of_withheld(name: str, mount: Mount) -> str:
    """Say that the whole v2 tree, as far as we see it, lacks a controller."""
    return (
        f"the {name} controller is not given to {mount.path}, by the kernel or by whoever started "
        f"this container; let root of the host {_DELEGATE_ALL}, and start the container anew"
    )


def of_switched_off(name: str) -> str:
    """Say that the kernel was told to leave a controller out."""
    return f"the kernel has the {name} controller switched off; boot it with cgroup_enable={name}"


def of_no_mount(name: str) -> str:
    """Say that no file system shows a controller."""
    return (
        f"no control group file system with the {name} controller is mounted; "
        "in a container: start it with --privileged, or mount /sys/fs/cgroup into it"
    )


def of_failed_trial(folder: str, number: int) -> str:
    """Say that a process cannot be put into the folder that was made.

    On v2 that takes write access to the nearest folder above both, cgroup-v2.rst says.
    """
    what = f"joining {folder} fails: {os.strerror(number)}"
    if number in (errno.EACCES, errno.EPERM):
        given = os.path.dirname(folder)
        return f"{what}; let root move your shell into {given}, or run pytest as root"
    return f"{what}; name a folder that can be used in {SETTING}"


def _frozen_above(path: str, top: str) -> str:
    """Return the nearest folder, from `path` up to `top`, that was told to freeze; "" for none."""
    while path.startswith(f"{top}/"):
        for file, words in (("cgroup.freeze", ("1",)), ("freezer.state", ("FROZEN", "FREEZING"))):
            if _content(f"{path}/{file}") in words:
                return path
        path = os.path.dirname(path)
    return ""


def _content(path: str) -> str:
    try:
        return read_text(path).strip()
    except OSError:
        return ""


def _named(pids: list[int]) -> str:
    pid = min(pids, default=0)
    name = _content(f"/proc/{pid}/comm")
    return f"process {pid} ({name})" if name else "one of another pid namespace"
