"""Scripts in a container, to be run there."""

from __future__ import annotations

from pytest_rootfs.runtime.container import Container


def script(container: Container, text: str, mode: int = 0o755) -> str:
    """Write /opt/script in a container; return its path."""
    path = container.path("/opt/script")
    path.write_text(text)
    path.chmod(mode)
    return str(path)
