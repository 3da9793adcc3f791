"""The kernel as Python functions: syscalls, mounts, namespaces, cgroups, capabilities.

Everything here raises `OSError` only, names the syscall and its argument in it, and takes no
decision. It runs inside the small processes (warden, spawner, init), so it imports little.
"""
