"""Mount trees by descriptor: overlays, temporary file systems, copies of host trees.

New mount API first (fsopen(2) and its family), mount(2) where the kernel is too old for a part
of it; which part works is found by trying, never by version.
"""

from __future__ import annotations

import errno
import os

from pytest_rootfs.kernel import proc_files, syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

OVERLAY_OPTIONS = {
    "redirect_dir": "nofollow",
    "metacopy": "off",
    "index": "off",
    "xino": "off",
}
"""Kernels differ in their defaults; with these the upper dir is plain (overlayfs.rst)."""

PLACES = ("/tmp", "/mnt", "/media", "/srv", "/etc")
"""Folders of which every host has one, and which neither warden nor spawner reads."""

NESTED = "on an overlay of an overlay"
"""What an error says of an overlay that the kernel refuses for its depth: it stacks two."""

MAPPING = "mount_setattr idmap"
"""What an error says of a mount that takes no id map; the mount follows."""

PROC_MAGIC = 0x9FA0
SYSFS_MAGIC = 0x62656572
TMPFS_MAGIC = 0x01021994
DEVPTS_MAGIC = 0x1CD1
OVERLAY_MAGIC = 0x794C7630


def filesystem(kind: str, options: Mapping[str, str | None], *, attributes: int = 0) -> int:
    """Return a detached mount of a new file system; an option of None is a flag."""
    fs_fd = syscalls.fsopen(kind)
    try:
        for key, value in options.items():
            if value is None:
                syscalls.fsconfig_flag(fs_fd, key)
            else:
                syscalls.fsconfig_string(fs_fd, key, value)
        syscalls.fsconfig_create(fs_fd)
        return syscalls.fsmount(fs_fd, attributes)
    except OSError as error:
        raise _explained(error, fs_fd, kind) from None
    finally:
        os.close(fs_fd)


def reconfigure(mount_fd: int, options: Mapping[str, str]) -> None:
    """Change options of the file system that a descriptor is the root of; fspick(2), Linux 5.2."""
    fs_fd = syscalls.fspick(mount_fd)
    try:
        for key, value in options.items():
            syscalls.fsconfig_string(fs_fd, key, value)
        syscalls.fsconfig_reconfigure(fs_fd)
    except OSError as error:
        raise _explained(error, fs_fd, ", ".join(map("=".join, options.items()))) from None
    finally:
        os.close(fs_fd)


def overlay(lower_fds: Sequence[int], *, upper_fd: int = -1, work_fd: int = -1) -> int:
    """Return a detached overlay; lower dirs topmost first; without an upper dir it is read-only.

    Descriptors must be opened for reading (O_PATH is refused by FSCONFIG_SET_FD). Raises OSError
    with the kernel's own explanation, from the context's log, where it gave one.
    """
    fs_fd = syscalls.fsopen("overlay")
    try:
        syscalls.fsconfig_flag(fs_fd, "userxattr")
        for key, value in OVERLAY_OPTIONS.items():
            syscalls.fsconfig_string(fs_fd, key, value)
        if not _set_layer(fs_fd, "lowerdir+", lower_fds[0]):
            return _old_overlay(lower_fds, upper_fd, work_fd)
        for fd in lower_fds[1:]:
            _set_layer(fs_fd, "lowerdir+", fd)
        if upper_fd >= 0:
            _set_layer(fs_fd, "upperdir", upper_fd)
            _set_layer(fs_fd, "workdir", work_fd)
        syscalls.fsconfig_create(fs_fd)
        return syscalls.fsmount(fs_fd, 0)
    except OSError as error:
        raise _explained(error, fs_fd, f"overlay of {len(lower_fds)} lower dirs") from None
    finally:
        os.close(fs_fd)


def _set_layer(fs_fd: int, key: str, fd: int) -> bool:
    """Set a layer; False when this kernel's overlay does not speak the new API at all.

    Linux 6.5 to 6.12 know `lowerdir+` but take no descriptors (EINVAL, EBADF): the magic link is a
    short path. Before, any option is taken and refused at the end; a descriptor at once.
    """
    try:
        syscalls.fsconfig_fd(fs_fd, key, fd)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return False
        if error.errno not in (errno.EINVAL, errno.EBADF):
            raise
        syscalls.fsconfig_string(fs_fd, key, f"/proc/self/fd/{fd}")
    return True


def _old_overlay(lower_fds: Sequence[int], upper_fd: int, work_fd: int) -> int:
    """Mount by mount(2), which is all that kernels before 6.5 know, and detach a copy.

    The options are one string of at most a page. Named from within /proc/self/fd, the 500 layers
    that an overlay takes fit. The mount is on some folder of this private namespace meanwhile.
    """
    place = find_place()
    options = {"lowerdir": ":".join(map(str, lower_fds)), **OVERLAY_OPTIONS}
    if upper_fd >= 0:
        options |= {"upperdir": str(upper_fd), "workdir": str(work_fd)}
    text = ",".join(["userxattr", *(f"{key}={value}" for key, value in options.items())])
    back_fd = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    os.chdir("/proc/self/fd")
    try:
        syscalls.mount("overlay", place, "overlay", 0, text)
    finally:
        os.fchdir(back_fd)
        os.close(back_fd)
    try:
        return clone_tree(place, recursive=False)
    finally:
        syscalls.umount2(place, syscalls.MNT_DETACH)


def overlay_view(layer_fds: Sequence[int]) -> int:
    """Return a descriptor of the merged, read-only view of layers, topmost first.

    A read-only overlay needs two lower dirs, so a single layer is returned as it is (duplicated).
    """
    if len(layer_fds) == 1:
        return os.dup(layer_fds[0])
    try:
        return overlay(layer_fds)
    except OSError as error:
        raise named_nested(error, layer_fds[-1]) from None


def named_nested(error: OSError, layer_fd: int) -> OSError:
    """Return the error of an overlay; one that says so if the place of its layers is the cause."""
    is_nested = error.errno == errno.EINVAL and (
        syscalls.filesystem_magic(layer_fd) == OVERLAY_MAGIC
    )
    return OSError(error.errno, error.strerror, f"overlay {NESTED}") if is_nested else error


def clone_tree(path: str | bytes, *, fd: int = syscalls.AT_FDCWD, recursive: bool = True) -> int:
    """Return a detached copy of the mount tree at a path: a bind mount without a place yet."""
    flags = syscalls.OPEN_TREE_CLONE | (syscalls.AT_RECURSIVE if recursive else 0)
    return syscalls.open_tree(fd, path, flags)


def find_place() -> str:
    """Return a folder of the host that a process with its own mount namespace can do without."""
    for path in PLACES:
        if os.path.isdir(path) and not os.path.islink(path):  # move_mount(2) follows no link
            return path
    raise OSError(errno.ENOENT, "none of these is a folder", " ".join(PLACES))


def keep_attached(tree_fd: int, place: str) -> None:
    """Give a detached tree a place in this private mount namespace, over a folder nobody needs.

    An overlay takes a lower dir only from a mount of a namespace that the caller administers
    (clone_private_mount in fs/namespace.c), and a tree that a more privileged process has detached
    is not; before Linux 6.15 no detached tree is. Not over `/`: then clone(2) takes us for chrooted
    and refuses a user namespace. What is put over a copy of a shared mount would appear on the
    host, too, so it becomes private.
    """
    syscalls.move_mount(tree_fd, place)
    syscalls.mount(None, place, None, syscalls.MS_PRIVATE)


def detach_last(place: str) -> None:
    """Take the place from the tree that got it last; open descriptors keep the tree alive."""
    syscalls.umount2(place, syscalls.MNT_DETACH)


def pivot_into(root_fd: int) -> None:
    """Make a folder the root of this process, in a mount namespace of its own.

    The caller has unshared its mount namespace. `root_fd` is best a detached tree (`clone_tree`);
    a plain folder is copied first, which the kernel allows only if it was opened in this mount
    namespace. Afterwards nothing of the old root can be reached by path.
    """
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    try:
        syscalls.move_mount(root_fd, "/")
        os.fchdir(root_fd)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        tree_fd = clone_tree("", fd=root_fd, recursive=False)
        syscalls.move_mount(tree_fd, "/")
        os.fchdir(tree_fd)
        os.close(tree_fd)
    pivot_here()


def pivot_here() -> None:
    """Make the current directory, which is a mount, the root, and drop the old one.

    pivot_root(2), NOTES: `pivot_root(".", ".")` stacks the old root on the new one, where it can
    be unmounted without a folder to hold it. A copy of a shared mount is shared, which it refuses.
    """
    syscalls.mount(None, ".", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.pivot_root(".", ".")
    syscalls.umount2(".", syscalls.MNT_DETACH)
    os.chdir("/")


def host_tree(path: str, *, readonly: bool, recursive: bool, userns_fd: int = -1) -> int:
    """Return a detached copy of a host tree, fit to be given to a container.

    With a user namespace the tree is id-mapped (mount_setattr(2), Linux 5.12), so that ids on disk
    are the container's ids. Mounts below are taken along when `recursive`. Raises OSError with the
    mount that cannot be id-mapped (proc, sysfs, network file systems): left out, its folder would
    look empty, and unmapped its files would belong to nobody.
    """
    attributes = syscalls.MOUNT_ATTR_NODEV | (syscalls.MOUNT_ATTR_RDONLY if readonly else 0)
    if userns_fd >= 0:
        attributes |= syscalls.MOUNT_ATTR_IDMAP
    tree_fd = clone_tree(path, recursive=recursive)
    try:
        syscalls.mount_setattr(
            tree_fd,
            "",
            attributes=attributes,
            recursive=recursive,
            userns_fd=max(userns_fd, 0),
            propagation=syscalls.MS_PRIVATE,  # what a container mounts is nobody else's matter
        )
    except OSError as error:
        os.close(tree_fd)
        if error.errno == errno.EINVAL and recursive and userns_fd >= 0:
            error.filename = f"{MAPPING} {_unmappable(path, userns_fd)}"
        raise
    return tree_fd


def _unmappable(path: str, userns_fd: int) -> str:
    """Return the first of the mounts at and below a path that cannot be id-mapped."""
    for place in [path, *proc_files.mount_points_below(os.path.realpath(path))]:
        try:
            os.close(host_tree(place, readonly=True, recursive=False, userns_fd=userns_fd))
        except OSError as error:
            if error.errno == errno.EINVAL:
                return place
    return path


def _explained(error: OSError, fs_fd: int, subject: str) -> OSError:
    """Add what the kernel wrote into the context's message log; fsopen(2)."""
    messages = []
    try:
        while message := os.read(fs_fd, 8192):
            messages.append(message.decode(errors="replace")[2:].strip())
    except OSError:
        pass  # ENODATA: the log is empty
    text = "; ".join([os.strerror(error.errno or 0), *messages])
    return OSError(error.errno, text, f"{subject}: {error.filename}")
