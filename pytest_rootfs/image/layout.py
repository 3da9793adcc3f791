"""Make the folders, links and account files that programs expect to find.

Merged /usr, as Debian 12, Ubuntu 24.04 and Fedora have it. Nothing of the host is read.
"""

from __future__ import annotations

from pytest_rootfs.image.trees import Tree, TreeEntry, content_entry

FOLDERS = (
    *("dev", "etc", "home", "mnt", "opt", "proc", "run", "run/lock", "srv", "sys"),
    *("usr", "usr/bin", "usr/lib", "usr/lib64", "usr/sbin", "usr/share"),
    *("usr/local", "usr/local/bin", "usr/local/lib", "usr/local/sbin", "usr/local/share"),
    *("var", "var/cache", "var/lib", "var/log", "var/spool"),
)
MODES = {"root": 0o700, "tmp": 0o1777, "var/tmp": 0o1777}
LINKS = {
    "bin": "usr/bin",
    "lib": "usr/lib",
    "lib64": "usr/lib64",
    "sbin": "usr/sbin",
    "var/lock": "/run/lock",
    "var/run": "/run",
}
FILES = {
    "etc/passwd": """\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
bin:x:2:2:bin:/bin:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
""",
    "etc/group": """\
root:x:0:
daemon:x:1:
bin:x:2:
tty:x:5:
staff:x:50:
users:x:100:
nogroup:x:65534:
""",
    "etc/nsswitch.conf": """\
passwd: files
group: files
shadow: files
hosts: files dns
networks: files
protocols: files
services: files
""",
}


def gather_layout() -> Tree:
    """Return the layout; the same on every host."""
    entries = [
        *(TreeEntry(path=path.encode(), kind="dir", mode=0o755) for path in FOLDERS),
        *(TreeEntry(path=path.encode(), kind="dir", mode=mode) for path, mode in MODES.items()),
        *(content_entry(path.encode(), text.encode()) for path, text in FILES.items()),
        *(
            TreeEntry(path=path.encode(), kind="symlink", mode=0o777, linkname=target.encode())
            for path, target in LINKS.items()
        ),
    ]
    return Tree(entries=tuple(sorted(entries, key=lambda entry: entry.path)))
